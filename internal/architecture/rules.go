package architecture

// rule is what one package may import. Tests of the package may import more: see testsToo.
type rule struct {
	module []string // of this module
	others []string // prefixes of import paths of other modules
}

// rules name every package of the module. A direction that is not here is a decision: it belongs into docs/decisions,
// and then here. A name that ends in "/..." stands for a folder and all below it.
var rules = map[string]rule{
	// The nouns that everything is written in.
	"wire": {},

	// Who belongs, and the keys. Only the keyring touches private keys.
	"trust":         {module: []string{"wire"}},
	"trust/keyring": {module: []string{"wire", "trust"}, others: []string{"github.com/zalando/go-keyring", "golang.org/x/crypto", "golang.org/x/sys"}},

	// What is stored, sent and backed up. It never sees a key nor a document.
	"chunk": {module: []string{"wire", "trust"}, others: []string{"github.com/klauspost/compress/zstd"}},

	// Documents. crdt knows no FHIR and no engine; the engine alone reaches C.
	"crdt":              {module: []string{"wire"}},
	"crdt/engine":       {module: []string{"wire", "crdt"}, others: []string{"github.com/automerge/automerge-go", "golang.org/x/sys"}},
	"fhir":              {module: []string{"wire", "crdt"}, others: []string{"golang.org/x/text"}},
	"fhir/internal/gen": {},
	"fhir/synthetic":    {module: []string{"fhir"}},

	// The disk and the network. Neither knows documents; the disk does not know chunks either.
	"storage": {
		module: []string{"wire"},
		others: []string{"github.com/dgraph-io/badger/v4", "github.com/dgraph-io/ristretto/v2", "github.com/klauspost/compress/snappy", "golang.org/x/sync", "golang.org/x/sys"},
	},
	"storage/storagetest":     {module: []string{"storage"}},
	"chunk/logs":              {module: []string{"wire", "trust", "chunk", "storage", "p2p/session"}},
	"p2p/session":             {module: []string{"wire", "trust", "chunk"}},
	"p2p/session/sessiontest": {module: []string{"wire", "trust", "chunk", "p2p/session"}},
	"p2p/lan":                 {module: []string{"trust"}, others: []string{"golang.org/x/net", "golang.org/x/time/rate"}},
	"p2p/cpace":               {others: []string{"github.com/bwesterb/go-ristretto"}},
	"p2p": {
		module: []string{"wire", "trust", "chunk", "p2p/cpace", "p2p/lan", "p2p/session"},
		others: []string{"github.com/jackpal/go-nat-pmp", "github.com/libp2p/go-libp2p", "github.com/libp2p/go-netroute", "github.com/multiformats/go-multiaddr", "golang.org/x/time/rate"},
	},

	// What must be exclusive: a state machine that knows nothing but itself, and voters that keep it by Raft.
	"lockquorum":             {module: []string{"wire", "trust"}},
	"lockquorum/certificate": {module: []string{"wire", "trust", "lockquorum"}}, // which changes count by what voters say
	"lockquorum/voter":       {module: []string{"wire", "lockquorum"}, others: []string{"go.etcd.io/raft/v3", "google.golang.org/protobuf/proto"}},

	// A voter that runs, on a disk. It never sees the network: agent and anchor join them.
	"lockquorum/driver": {
		module: []string{"wire", "trust", "lockquorum", "lockquorum/voter", "storage"},
		others: []string{"go.etcd.io/raft/v3", "google.golang.org/protobuf/proto"},
	},
	// How far a device saw the quorum come.
	"lockquorum/seen": {module: []string{"wire", "trust", "lockquorum", "lockquorum/certificate", "storage"}},
	// The voter of this device, of a workstation as of an anchor. It knows no name.
	"lockquorum/local": {
		module: []string{"wire", "trust", "storage", "lockquorum", "lockquorum/certificate", "lockquorum/driver", "lockquorum/remote", "lockquorum/seen", "lockquorum/voter"},
		others: []string{"go.etcd.io/raft/v3/raftpb"},
	},
	// Numbers that this device gives without asking.
	"lockquorum/ranges":     {module: []string{"wire", "storage", "lockquorum"}},
	"lockquorum/client":     {module: []string{"lockquorum"}},
	"lockquorum/remote":     {module: []string{"wire", "trust", "lockquorum", "lockquorum/certificate"}, others: []string{"go.etcd.io/raft/v3/raftpb", "google.golang.org/protobuf/proto"}},
	"lockquorum/quorumtest": {module: []string{"lockquorum"}},

	// The joins. The API's types stand alone, so that a client needs nothing else.
	"agent/api":         {},
	"agent/api/apitest": {module: []string{"agent/api"}},
	"agent/client":      {module: []string{"agent/api"}},
	"agent/replica": {module: []string{
		"wire", "trust", "trust/keyring", "chunk", "chunk/logs", "crdt", "fhir", "lockquorum", "lockquorum/certificate", "storage", "p2p/session",
		"agent/api",
	}},
	"agent/quorum": {
		module: []string{"wire", "trust", "storage", "lockquorum", "lockquorum/certificate", "lockquorum/client", "lockquorum/driver", "lockquorum/local", "lockquorum/ranges", "lockquorum/remote", "agent/api"},
		others: []string{"golang.org/x/text/unicode/norm"},
	},
	"agent": {module: []string{
		"wire", "trust", "trust/keyring", "chunk", "crdt", "crdt/engine", "fhir", "storage", "p2p", "p2p/lan", "p2p/session",
		"lockquorum", "lockquorum/local", "lockquorum/ranges", "lockquorum/remote", "agent/api", "agent/quorum", "agent/replica", "internal/figures",
	}, others: []string{"github.com/prometheus/client_golang", "golang.org/x/sys"}},

	// What agent and anchor tell of themselves in the same way.
	"internal/figures": {module: []string{"storage"}, others: []string{"github.com/prometheus/client_golang", "github.com/prometheus/common"}},

	// The blind peer.
	"anchor/command": {module: []string{"anchor", "lockquorum/local", "p2p"}, others: []string{"github.com/multiformats/go-multiaddr", "github.com/spf13/cobra", "golang.org/x/term"}},
	"anchor/kept":    {module: []string{"trust", "chunk", "chunk/logs", "lockquorum/seen", "storage", "p2p/session"}},
	"anchor": {
		module: []string{
			"wire", "trust", "anchor/kept", "internal/figures", "storage", "p2p", "p2p/session", "lockquorum", "lockquorum/driver", "lockquorum/local", "lockquorum/remote",
		},
		others: []string{"github.com/prometheus/client_golang", "golang.org/x/time/rate"},
	},

	// The commands, which nobody imports.
	"cmd/chartmesh-anchor": {module: []string{"anchor/command"}},
	"cmd/chartmesh": {
		module: []string{
			"agent", "agent/api", "agent/client", "cmd/chartmesh/crash", "cmd/chartmesh/demo", "cmd/chartmesh/logfile", "cmd/chartmesh/wholefile", "crdt/engine", "fhir",
		},
		others: []string{"github.com/kardianos/service", "github.com/spf13", "golang.org/x/sync", "golang.org/x/term", "rsc.io/qr"},
	},
	"cmd/chartmesh/crash":     {others: []string{"golang.org/x/sys"}},
	"cmd/chartmesh/logfile":   {},
	"cmd/chartmesh/wholefile": {others: []string{"golang.org/x/sys"}},
	"cmd/chartmesh/demo":      {module: []string{"agent", "agent/api", "agent/client", "fhir", "fhir/synthetic"}},

	// What proves the rest, and is part of nothing.
	"acceptance": {
		// A stranger's peer and a hostile member too, devices that are made by hand, and what an anchor's folder holds when it is opened.
		module: []string{
			"wire", "trust", "trust/keyring", "chunk", "chunk/logs", "storage", "agent/api", "agent/client", "crdt", "fhir", "fhir/synthetic",
			"internal/hostile", "p2p", "p2p/session", "simulations/natbed",
		},
		others: []string{"github.com/libp2p/go-libp2p", "github.com/multiformats/go-multiaddr", "golang.org/x/sys"},
	},
	"bench": {
		module: []string{
			"trust", "trust/keyring", "chunk", "storage", "agent", "agent/api", "agent/replica", "anchor", "crdt/engine", "fhir", "fhir/synthetic",
			"p2p", "p2p/session",
		},
		others: []string{"github.com/klauspost/compress/zstd", "golang.org/x/crypto"}, // limits to measure against
	},
	"bench/figures":      {},
	"bench/practice":     {module: []string{"fhir", "fhir/synthetic"}},
	"simulations/natbed": {others: []string{"github.com/google/nftables", "github.com/mdlayher/netlink", "golang.org/x/sys"}},
	"simulations/quorum": {
		module: []string{"trust", "lockquorum", "lockquorum/certificate", "lockquorum/voter"},
		others: []string{"go.etcd.io/raft/v3", "google.golang.org/protobuf/proto"},
	},
	"simulations": {module: []string{
		"wire", "trust", "trust/keyring", "chunk", "crdt", "crdt/engine", "fhir", "fhir/synthetic", "storage",
		"p2p/session", "agent/api", "agent/replica", "anchor/kept", "lockquorum", "lockquorum/certificate",
	}},
	"internal/architecture": {},
	"internal/compat":       {},
	"internal/fuzzing":      {},
	"internal/fuzzall":      {},
	"internal/hostile": {module: []string{
		"wire", "trust", "trust/keyring", "chunk", "crdt", "crdt/engine", "fhir", "storage",
	}},
	"internal/dictionary": {module: []string{"crdt", "crdt/engine", "fhir", "fhir/synthetic"}},
}

// testsToo is what tests may import beyond their package's rule: the suites and drivers that tests share.
var testsToo = []string{"golang.org/x/sync", "github.com/rogpeppe/go-internal", "pgregory.net/rapid"}

// testModules is the same of this module.
var testModules = []string{"internal/compat", "internal/fuzzing"}

// testImports is what the tests of a package may import of this module beyond its rule. They go against no direction
// that a linked program has.
var testImports = map[string][]string{
	"storage":           {"storage/storagetest"},
	"p2p":               {"p2p/session/sessiontest"},
	"p2p/session":       {"p2p/session/sessiontest"},
	"chunk":             {"trust/keyring"}, // seals with real keys
	"crdt":              {"crdt/engine"},   // the validator against the real library
	"agent":             {"fhir/synthetic"},
	"anchor":            {"trust/keyring", "chunk", "chunk/logs", "lockquorum"}, // real customers
	"anchor/kept":       {"trust/keyring", "lockquorum"},
	"lockquorum/driver": {"lockquorum/quorumtest"},
	"lockquorum/remote": {"lockquorum/driver", "lockquorum/quorumtest", "lockquorum/voter", "storage"}, // a real voter
	"lockquorum/client": {"lockquorum/driver", "lockquorum/quorumtest", "lockquorum/voter", "storage"}, // a real voter
	"lockquorum/seen":   {"trust/keyring"},                                                             // real devices
	"lockquorum/local":  {"trust/keyring"},                                                             // real devices
	"agent/quorum":      {"trust/keyring"},                                                             // real devices
	"agent/replica":     {"crdt/engine", "internal/hostile"},                                           // the replica is given its engine
	"agent/api":         {"agent/api/apitest"},
	"agent/client":      {"agent/api/apitest"},
	"cmd/chartmesh":     {"anchor/command", "agent/api/apitest", "chunk", "crdt", "p2p", "storage", "trust", "trust/keyring", "wire"}, // a script's hostile member; what a log is given; guesses
}

// testOthers is the same for other modules.
var testOthers = map[string][]string{
	"trust/keyring": {"github.com/godbus/dbus"}, // a session's bus with a keychain on it
	"chunk":         {"golang.org/x/crypto"},
}

// unreachable lists what a package may not reach through any number of imports within the module.
var unreachable = map[string][]string{
	"chunk":   {"crdt", "trust/keyring", "storage", "p2p", "agent"},
	"trust":   {"trust/keyring", "chunk", "crdt", "storage", "p2p", "agent"},
	"crdt":    {"crdt/engine", "fhir", "chunk", "trust", "storage", "p2p", "agent"},
	"fhir":    {"crdt/engine", "chunk", "trust", "storage", "p2p", "agent"},
	"storage": {"chunk", "trust", "crdt", "p2p", "agent"},
	"p2p":     {"trust/keyring", "crdt", "storage", "agent"},

	"lockquorum/driver": {"trust/keyring", "crdt", "p2p", "agent"}, // an anchor runs it too
	"lockquorum/local":  {"trust/keyring", "crdt", "fhir", "p2p", "agent"},

	"chunk/logs":    {"trust/keyring", "crdt", "p2p", "agent"},
	"trust/keyring": {"chunk", "crdt", "storage", "p2p", "agent"},
	"crdt/engine":   {"fhir", "chunk", "trust", "storage", "p2p", "agent"},
	"agent/api":     {"agent", "agent/replica"},
	"agent/client":  {"agent", "agent/replica"},
	"agent/quorum":  {"agent", "agent/replica", "crdt", "p2p", "trust/keyring"},
	"agent/replica": {"agent", "crdt/engine", "p2p"},
	"anchor/kept":   {"agent", "anchor", "crdt", "fhir", "p2p", "trust/keyring"},
	"anchor":        {"agent", "crdt", "fhir", "trust/keyring"},
}

// cgo is the one package that may import "C". An anchor is linked without cgo from the packages in blind, which is what
// proves that it cannot read a record; they must not reach what can open one either.
const cgo = "crdt/engine"

var blind = []string{"wire", "trust", "chunk", "chunk/logs", "storage", "p2p", "p2p/cpace", "p2p/lan", "p2p/session", "internal/figures",
	"lockquorum", "lockquorum/certificate", "lockquorum/driver", "lockquorum/local", "lockquorum/remote", "lockquorum/seen", "lockquorum/voter",
	"anchor/kept", "anchor", "anchor/command", "cmd/chartmesh-anchor"}

// Line limits. A file that grows past its limit is two things.
const (
	maxLines     = 600
	maxTestLines = 800
)

// long lists the files that may be longer, with how long.
var long = map[string]int{}
