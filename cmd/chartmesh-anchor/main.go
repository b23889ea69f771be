// Command chartmesh-anchor keeps the sealed records of practices available to their devices, and cannot read them.
//
//	chartmesh-anchor run --data /var/lib/chartmesh-anchor
//	chartmesh-anchor admit TOKEN      of an administrator's `chartmesh anchor add`
//	chartmesh-anchor status --json
//	chartmesh-anchor usage
//	chartmesh-anchor quota PRACTICE --bytes 50GB
//	chartmesh-anchor drop PRACTICE
//
// It is built without cgo: the linker shows that it holds no engine and no key that opens a chunk.
package main

import "chartmesh/anchor/command"

func main() { command.Main() }
