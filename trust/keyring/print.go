package keyring

import (
	"fmt"
	"log/slog"
)

// Format prints the device's ID and no key, whatever the verb: without it, %x of a Keyring would print every field.
func (k *Keyring) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// String names the device.
func (k *Keyring) String() string { return "keyring of device " + k.device.String() }

// GoString names the device.
func (k *Keyring) GoString() string { return k.String() }

// LogValue names the device.
func (k *Keyring) LogValue() slog.Value { return slog.StringValue(k.String()) }
