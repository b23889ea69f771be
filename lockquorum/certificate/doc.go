// Package certificate says which changes of a protected document count.
//
// Nouns: a Statement is what a voter says of one document: which heads are certified, and whether the lease of the last token has ended; Signed
// is that with its signature; a Certified is a statement that was found good, with the heads in plain; a Judgement is what follows of all of
// them for the changes that are held.
//
// Guarantees: a Judgement is a pure function of the sets of changes and of statements, whatever order they came in (docs/spec/protected-documents.md).
// What a newer statement certifies takes nothing away before it is here; of statements that contradict each other none counts.
//
// Left to others: where changes and statements are kept, and what a member puts where (package agent/replica); the key under which names are
// hashed (Hasher); who was a voter of an epoch (Voters, by the membership log).
package certificate
