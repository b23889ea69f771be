// Command etcd runs chartmesh's exclusive operations and etcd side by side, on one machine in one run: voters and clients in processes of
// their own, every write synced to one disk, TLS on every connection.
//
// It is a module of its own, so that nothing of etcd's server comes near the product.
package main
