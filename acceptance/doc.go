// Package acceptance holds the suites that try the built program the way its users do: agents as processes, commands,
// kills, strangers, a member that forges, and a search for what must not be readable. Most take minutes and run with HEAVY=1.
//
// Nouns: a site is an agent process with its folder; a ledger is what a client outside was told is written.
//
// CHARTMESH_TESTDATA may name a folder of FHIR files (*.json.gz) and CHARTMESH_EXAMPLES an NDJSON file of resources to
// run against; without them the suites make their own patients.
package acceptance
