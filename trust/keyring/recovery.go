package keyring

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"chartmesh/trust"
)

// ErrRecoveryCode says that a text is no recovery code: mistyped, or something else.
var ErrRecoveryCode = errors.New("not a recovery code")

// ErrWrongRecovery says that a recovery code belongs to another practice.
var ErrWrongRecovery = errors.New("the recovery code is not this practice's")

// ErrReplacedRecovery says that another recovery code is in force by now.
var ErrReplacedRecovery = errors.New("the recovery code was replaced by another")

const (
	// crockford's alphabet has neither I, L, O nor U.
	crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

	codeSecret = 26 // symbols of 5 bits: 130 bits
	codeCheck  = 4  // symbols: one mistyped code in a million is not noticed
	codeGroup  = 5

	maxCodeText = 1024 // bytes that are looked at as a typed code
)

// RecoveryCode is a practice's secret on paper. It prints as nothing but its kind; Reveal shows it.
type RecoveryCode struct{ symbols [codeSecret]byte }

func (k *Keyring) newRecoveryCode() (RecoveryCode, error) {
	var c RecoveryCode
	if err := k.fill(c.symbols[:]); err != nil {
		return c, fmt.Errorf("make recovery code: %w", err)
	}
	for i, b := range c.symbols {
		c.symbols[i] = crockford[b&31]
	}
	return c, nil
}

// ParseRecoveryCode reads a code as people type it: in either case, with spaces and dashes anywhere, with O for 0 and I
// or L for 1. It is ErrRecoveryCode when it is too short or long, has other characters, or the check fails.
func ParseRecoveryCode(text string) (RecoveryCode, error) {
	var c RecoveryCode
	if len(text) > maxCodeText {
		return c, fmt.Errorf("%w: it must have %d letters and digits", ErrRecoveryCode, codeSecret+codeCheck)
	}
	var symbols []byte
	for _, r := range strings.ToUpper(text) {
		switch r {
		case ' ', '-', '\t', '\r', '\n', '\u2010', '\u2011', '\u2013', '\u00a0':
			continue
		case 'O':
			r = '0'
		case 'I', 'L':
			r = '1'
		}
		if r > 127 || !strings.ContainsRune(crockford, r) {
			return c, fmt.Errorf("%w: it has a character that no code has", ErrRecoveryCode)
		}
		if symbols = append(symbols, byte(r)); len(symbols) > codeSecret+codeCheck {
			break
		}
	}
	if len(symbols) != codeSecret+codeCheck {
		return c, fmt.Errorf("%w: it must have %d letters and digits", ErrRecoveryCode, codeSecret+codeCheck)
	}
	copy(c.symbols[:], symbols)
	if string(symbols[codeSecret:]) != c.check() {
		return RecoveryCode{}, fmt.Errorf("%w: mistyped, its check does not fit", ErrRecoveryCode)
	}
	return c, nil
}

// Reveal returns the code in groups of five, for paper.
func (c RecoveryCode) Reveal() string {
	all := string(c.symbols[:]) + c.check()
	var groups []string
	for i := 0; i < len(all); i += codeGroup {
		groups = append(groups, all[i:i+codeGroup])
	}
	return strings.Join(groups, "-")
}

func (c RecoveryCode) check() string {
	sum := sha256.Sum256(append([]byte("chartmesh recovery check 1\x00"), c.symbols[:]...))
	out := make([]byte, codeCheck)
	for i := range out {
		out[i] = crockford[sum[i]&31]
	}
	return string(out)
}

// Format prints nothing of the code, whatever the verb.
func (RecoveryCode) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("recovery code (hidden)")) }

// LogValue logs nothing of the code.
func (RecoveryCode) LogValue() slog.Value { return slog.StringValue("recovery code (hidden)") }

// rootKey signs as the practice itself.
type rootKey struct{ private ed25519.PrivateKey }

func (r rootKey) Device() trust.DeviceID {
	return trust.DeviceID(r.private.Public().(ed25519.PublicKey))
}

func (r rootKey) Sign(context string, msg []byte) []byte {
	return ed25519.Sign(r.private, trust.SigningInput(context, msg))
}

func (rootKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("root key (hidden)")) }

// keys derives the practice's root key and recovery key. 130 random bits need no stretching.
func (c RecoveryCode) keys() (rootKey, hpke.PrivateKey, error) {
	root := ed25519.NewKeyFromSeed(derive(c.symbols[:], "chartmesh root 1", ed25519.SeedSize))
	recovery, err := kem.NewPrivateKey(derive(c.symbols[:], "chartmesh recovery 1", 32))
	if err != nil {
		return rootKey{}, nil, fmt.Errorf("derive recovery key: %w", err)
	}
	return rootKey{root}, recovery, nil
}

// Recovery is what a practice's recovery code opens and may do: every epoch of every scope, and every entry of the membership
// log, which outranks those of all devices.
type Recovery struct{ administrator }

// OpenWithRecovery opens the epochs of the membership log with the recovery code. All of them do, unless the administrator who
// began one did not seal its keys to the recovery key: see [Recovery.Opens]. That must not keep the code from removing him.
func OpenWithRecovery(code string, st *trust.State) (*Recovery, error) {
	c, err := ParseRecoveryCode(code)
	if err != nil {
		return nil, err
	}
	root, private, err := c.keys()
	if err != nil {
		return nil, err
	}
	if now, _ := st.Root(); root.Device() != now {
		if st.WasRoot(root.Device()) {
			return nil, ErrReplacedRecovery
		}
		return nil, ErrWrongRecovery
	}
	r := &Recovery{administrator{signer: root, random: func(b []byte) error {
		_, err := rand.Read(b)
		return err
	}}}
	if err := r.learn(private, st, trust.DeviceID{}); err != nil && !errors.Is(err, trust.ErrSealBroken) {
		return nil, fmt.Errorf("open with recovery code: %w", err)
	}
	return r, nil
}

// SignErasure has the practice's root key agree to an order to erase, named by the ID of its chunk.
func (r *Recovery) SignErasure(order [32]byte) (root trust.DeviceID, signature [64]byte) {
	return r.signer.Device(), [64]byte(r.signer.Sign(trust.ContextErasure, order[:]))
}

// Opens reports whether the recovery code opens an epoch.
func (r *Recovery) Opens(epoch trust.EpochID) bool { return r.has(epoch) }

// Format prints no key, whatever the verb.
func (*Recovery) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("recovery (hidden)")) }

// LogValue logs no key.
func (*Recovery) LogValue() slog.Value { return slog.StringValue("recovery (hidden)") }
