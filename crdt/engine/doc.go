// Package engine runs Automerge behind crdt.Engine.
//
// Nouns: a document is one Automerge document in the C library that automerge-go brings; [NewLocal] keeps documents in
// this process. A [Supervisor] keeps them in a child process, which is this binary again ([ChildMain]), and speaks with
// it over two pipes in frames: a length, a verb or an answer's status, the number of the call, the document, a payload
// (frame.go, codec.go).
//
// Guarantees: what the library does to the child, abort, hang or eat memory, costs the calls that wait and the loaded
// documents, and nothing else. A change that Apply or Load reports as applied is in the document, looked up by its hash.
// A Set always makes an operation, of an equal value too, so that it meets a concurrent write. Positions in a text are
// Unicode code points, as in the library. Maps are read ascending by key; chosen root keys in the order asked for. No
// error and no log line holds a word of a document; what the library prints when it panics is discarded.
//
// Whether a change may be applied at all is judged before by package crdt, which also holds what a document means. Which
// documents stay loaded is the caller's.
package engine
