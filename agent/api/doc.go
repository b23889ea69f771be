// Package api is the local API of an agent: what the commands, a client and later a browser may ask of it.
//
// Nouns: an [Agent] answers; a handler puts it behind HTTP and JSON under /v1/; [Listen] opens the data folder's socket;
// an [Error] has a [Code], and one table gives each code its HTTP status, exit code and meaning.
//
// Guarantees: every request has a cap, unknown fields and parameters are refused, an error carries no patient data, and a
// write that was under way when the agent was asked to end is finished. A resource travels as its own bytes.
//
// What the requests mean is left to the agent; who may ask, to the permissions of the socket.
package api
