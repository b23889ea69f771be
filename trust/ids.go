package trust

import (
	"encoding/hex"
	"strconv"
)

// EntryID names an entry of the membership log: SHA-256 of its bytes.
type EntryID [32]byte

// DeviceID is a device's Ed25519 public key, which is also its libp2p peer ID.
type DeviceID [32]byte

// ScopeID names a scope.
type ScopeID [16]byte

// DocumentPrefix is how many bytes of its scope's ID a document's ID begins with.
const DocumentPrefix = 8

// EpochID names a generation of a scope's key: a hash of the entry that began it and the scope.
type EpochID [32]byte

// Role is what a device may do. The numbers are part of the membership log.
type Role uint8

const (
	RoleAdmin  Role = 1
	RoleMember Role = 2
	RoleReader Role = 3
	RoleServer Role = 4
	RoleAnchor Role = 5
)

// MayWrite reports whether chunks of a device in the role count.
func (r Role) MayWrite() bool { return r == RoleAdmin || r == RoleMember || r == RoleServer }

// MayRead reports whether a device in the role is given keys.
func (r Role) MayRead() bool { return r.MayWrite() || r == RoleReader }

func (id EntryID) String() string  { return hex.EncodeToString(id[:8]) }
func (id DeviceID) String() string { return hex.EncodeToString(id[:8]) }
func (id ScopeID) String() string  { return hex.EncodeToString(id[:4]) }
func (id EpochID) String() string  { return hex.EncodeToString(id[:8]) }

var roleNames = map[Role]string{
	RoleAdmin: "admin", RoleMember: "member", RoleReader: "reader", RoleServer: "server", RoleAnchor: "anchor",
}

func (r Role) String() string {
	if s, ok := roleNames[r]; ok {
		return s
	}
	return "role " + strconv.Itoa(int(r))
}
