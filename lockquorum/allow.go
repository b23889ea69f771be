package lockquorum

import "chartmesh/trust"

// Allows reports whether a device may ask for an operation, by the membership log: who writes may take leases and numbers, an administrator
// may end another's lease and say which numbers there are. What the voters do among themselves (Tick, Voters) nobody asks for.
func Allows(st *trust.State, from DeviceID, o Operation) bool {
	m, ok := st.Member(from)
	if !ok {
		return false
	}
	switch o.Op() {
	case OpOpen, OpKeep, OpEnd, OpAcquire, OpRenew, OpCommit, OpRelease, OpCancel, OpAssign, OpResolve, OpTake, OpGiveBack:
		return m.Role.MayWrite()
	case OpBreak, OpOpenCircle, OpCloseCircle, OpGrant, OpVoid, OpDefine:
		return m.Role == trust.RoleAdmin
	}
	return false
}

// Reads reports whether a device may read what a quorum agrees on: who belongs.
func Reads(st *trust.State, from DeviceID) bool {
	_, ok := st.Member(from)
	return ok
}

// MayVote reports whether a device may be a voter: an anchor, which decides nothing that members did not ask for, and who MayVoteAs what the membership log says.
func MayVote(st *trust.State, d DeviceID) bool {
	m, ok := st.Member(d)
	return ok && MayVoteAs(st, d, m.Role) || st.IsAnchor(d)
}

// MayVoteAs reports whether a device of a role may be a voter: who writes, and whose word on the quorum everybody believes. A plain member's word counts with
// nobody but where it founded the practice (MayHaveVoted): what it certified would wait for ever.
func MayVoteAs(st *trust.State, d DeviceID, role trust.Role) bool {
	return role == trust.RoleAdmin || role == trust.RoleServer || role == trust.RoleMember && d == st.Founding().Device.ID
}
