//go:build !unix

package main

func owner(string) (string, error) {
	return "", usage("name the user that the service runs as: --account")
}
