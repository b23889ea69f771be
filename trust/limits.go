package trust

// Caps on everything that comes from outside. All of them are part of the format: what one device takes, every device
// takes.
const (
	// MaxEntry is the size of an entry: a rotation for 800 devices fits.
	MaxEntry = 1 << 20
	// MaxEntries is how many entries a State takes. Each costs a bit per other entry.
	MaxEntries = 16384
	// MaxParents is how many heads an entry joins.
	MaxParents = 64
	// MaxSignatures is how many keys sign one entry.
	MaxSignatures = 8
	// MaxPayload leaves room for the envelope around it.
	MaxPayload = MaxEntry - 4096
	// MaxScopes is how many scopes one entry begins or carries boxes for.
	MaxScopes = 64
	// MaxScopeName is the length of a scope's name in bytes.
	MaxScopeName = 32
	// MaxBoxes is how many key boxes one entry has for a scope.
	MaxBoxes = 832
	// MaxCut is how many positions the cut of a device names.
	MaxCut = 4096
	// MaxAddresses is how many addresses an anchor has, and MaxAddress the length of one.
	MaxAddresses = 16
	MaxAddress   = 256
	// MaxVoters is how many voters a reseed names.
	MaxVoters = 7
	// MaxName is the length of the name of a practice, site or device in bytes.
	MaxName = 256
	// MaxSealedNames is the length of sealed names: two of them, padded, with nonce and tag.
	MaxSealedNames = 1024
)

// Sizes that the suite fixes.
const (
	// HPKEPublicSize is the length of an MLKEM768X25519 public key.
	HPKEPublicSize = 1216
	// KeyBoxSize is the length of a key box: encapsulation (1120), two keys (64) and tag (16).
	KeyBoxSize = 1120 + 64 + 16
	// PreviousEpochSize is the length of an epoch's key sealed under the next one: the key (32) and tag (16).
	PreviousEpochSize = 32 + 16
)
