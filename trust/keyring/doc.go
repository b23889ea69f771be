// Package keyring holds a device's private keys and offers them as operations: sign, seal, open, derive.
//
// Nouns: a [Keyring] is what one device owns, in one file of its data folder. A [RecoveryCode] is what the practice
// wrote down on paper; a [Recovery] is what that code opens, and may sign membership entries as the practice's root key, which outranks
// every administrator.
//
// Guarantees: no key is returned, printed, logged or part of an error, with two exceptions that the libraries below
// force: [Keyring.StoreKey], since the store encrypts with bytes, and [Keyring.Derive], whose results are useless for
// anything but the context that they are derived for. A log nonce is bound to this folder on this machine: a copied or
// restored folder gets a new one when it is opened, before it can write, so that no two stores write one log.
// Everything is safe for concurrent use.
//
// The file is protected by its permissions alone, by a passphrase, or by a key in the system's keychain.
// Who belongs and which keys there are is package trust's to say, the form of chunks is package chunk's.
package keyring
