// Package lockquorum decides what must be exclusive: who may change a protected document, which heads of it count, and which number an
// invoice has.
//
// Nouns: a State is what the voters of a practice agree on; a Command changes it, and nothing else does; a lease is the right of one
// session to commit under a lock, for a time; its Token only grows; a commit certifies the heads of a document, and a seal ends that for a
// token; a circle gives numbers without gaps, a range parts of a number space to keep.
//
// Guarantees: a State is a pure function of the commands that were applied, in their order. It looks at no clock, draws nothing by chance
// and keeps no order of a map, so that all voters who applied the same hold the same bytes. At most one holder's changes are committed at a
// time, in the order of tokens; a number is given once, to one item, for ever.
//
// Left to others: that all voters apply the same commands in the same order, and do not forget them (the driver, by Raft); that a command
// comes from the device that it names, and which roles may break or define (the driver, by the membership log); what names and heads mean
// (the client: a State sees keyed hashes alone).
//
// Sources: Ongaro, Consensus: Bridging Theory and Practice (2014), chapter 6.3 (sessions); Gray and Cheriton, Leases (1989); Kleppmann, How
// to do distributed locking (2016), for fencing tokens.
package lockquorum
