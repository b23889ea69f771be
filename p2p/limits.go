package p2p

import "time"

// Caps on what comes from outside. Those of the sync session stand in package session.
const (
	// MaxCodeAddrs is how many addresses a code carries.
	MaxCodeAddrs = 6
	// MaxCodeText is how long a typed code may be.
	MaxCodeText = 1024
	// MaxJoinAnswer is how long the answer to a newcomer may be: the whole membership log.
	MaxJoinAnswer = 64 << 20
	// MaxJoinName is how long the name of a device or site may be, in bytes.
	MaxJoinName = 256
	// MaxHPKEKey is how long a newcomer's HPKE key may be.
	MaxHPKEKey = 4096

	maxJoinHello   = MaxHPKEKey + 128
	maxSealedNames = 2*MaxJoinName + 32
	maxJoinProof   = maxSealedNames + 64

	maxConns          = 256
	maxTransient      = 64
	maxConnsPerAddr   = 96 // a whole branch behind one router
	maxUnnamed        = 16 // streams of one stranger that have not said for which protocol they are
	newConnsPerSecond = 50
	maxNetMemory      = 512 << 20
	maxComing         = 64 << 20  // of frames that come of one practice's devices, beyond ownFrame of each
	maxGoing          = 256 << 20 // of those that go to them: one large chunk goes to many at once

	newConnsPerSecondPerAddr = 100

	maxStrangers              = 8 // at once, while an invite is open
	strangersPerSecond        = 1
	strangersBurst            = 8
	maxStrangersAtRelay       = 256 // at once, while some practice has an invitation open
	strangersPerSecondAtRelay = 16
	asksPerSecond             = 8 // of newcomers at a relay, for words
	asksBurst                 = 64
	maxAskedAgain             = 3 // times by a newcomer, a second apart
	maxAsked                  = 3 // inviters that a newcomer with words asks; each could be one that guesses

	maxCallers        = 4 // connections of who has the recovery code, or one that was replaced
	maxRecoverRequest = MaxJoinAnswer

	maxKnocking = 4 // removed devices that were let in to knock
	maxKnock    = MaxJoinAnswer

	// Of an anchor, which many practices share. Whoever fills the places for strangers leaves the others.
	maxConnsAtRelay          = 1 << 14
	maxTransientAtRelay      = 512
	maxStreamsAtRelay        = 1024    // of one device
	maxUnnamedAtRelay        = 320     // of those, which have not said for which protocol they are: as many questions as a voter takes
	maxNamingAtRelay         = 1 << 15 // of these, of all devices, and as many of all strangers
	newConnsPerSecondAtRelay = 500
	maxNetMemoryAtRelay      = maxConnsAtRelay * 256 << 10 // which is set aside for each stream over TCP, and used if it is not read
	maxHomes                 = 1 << 14                     // addresses that members have come from

	maxReservations        = 1 << 14 // of a relay
	maxReservationsPerAddr = 256     // a whole branch behind one router
	maxCircuits            = 256     // of one device
	relayBuffer            = 32 << 10

	maxCircuitAddrs = 4 // of one relay

	maxSought         = 64 // members of whom one asks another where they are; also how many it answers of
	maxRecord         = 2 << 10
	maxAddressRequest = 8 + maxSought*32
	maxAddressAnswer  = 8 + maxSought*(maxRecord+2)

	sweepShare = 10 // of the time, one part in so many goes to looks at all connections at most

	maxAddrs     = 16 // kept per peer
	maxKnown     = 1024
	maxParallel  = 8 // dials at once
	maxAddrBytes = 256
)

// Periods.
const (
	dialTimeout     = 15 * time.Second
	openTimeout     = 10 * time.Second // for a stream on a connection
	backoffFirst    = 200 * time.Millisecond
	backoffMost     = 15 * time.Second
	silence         = 40 * time.Second // without a byte from a peer, who pings each 15 s
	writeStall      = 60 * time.Second // for 64 KiB
	farewell        = 500 * time.Millisecond
	joinTimeout     = 30 * time.Second
	joinPatience    = 10 * time.Second       // with a stranger who has proven nothing
	confirmLimit    = 15 * time.Minute       // for an administrator to confirm one who has
	recoverPatience = 20 * time.Second       // with who has the recovery code, and of it
	knockPatience   = strangerLimit          // with a removed device that knocks, and of it
	knockAfter      = 3 * time.Second        // by which a peer that opens the stream has done so, if it lets this device in
	knockSoon       = time.Minute            // between two connections of a removed device that has not knocked
	knockAgain      = 10 * time.Minute       // and of one that has, in vain; and before one knocks again
	knockSame       = time.Hour              // with the same entries
	refusalDelay    = 300 * time.Millisecond // every refusal takes this long, whatever its reason
	strangerLimit   = 30 * time.Second       // then a stranger's connection is closed
	linkSettled     = time.Second            // an inbound connection beside a younger link is of two that dialled at once
	soonMost        = time.Second            // within which all dial again when the network has changed, each at its time
	probePatience   = 4 * time.Second        // for a sign of life when the network has changed, or somebody doubts
	heardFor        = 3 * time.Minute        // an announcement on the local network counts
	reservationTime = time.Hour              // of a place at a relay; it ends with the connection
	circuitAgain    = time.Minute            // before a peer is tried through relays once more
	reserveAgain    = 30 * time.Second       // after a relay gave none
	directAfter     = 5 * time.Second        // a peer that is reached through a relay is tried directly, then ever more seldom
	directMost      = 5 * time.Minute
	punchTimeout    = 3 * time.Second  // for both to reach each other, called at one moment; tried three times
	mapFor          = 10 * time.Minute // the router passes a port on, unless it is asked again
	mapAgain        = mapFor / 3
	mapLook         = 2 * time.Second        // at which router there is
	mapLater        = time.Minute            // at most, after a router that grants nothing
	mapPatience     = 2 * time.Second        // with a router, for each question
	tellPatience    = 10 * time.Second       // with a member that asks where others are, and with one that is asked
	tellEvery       = time.Minute            // may a member ask, on an average
	tellBurst       = 4                      // and so often at once
	askSoon         = 10 * time.Second       // after a link has begun a member is asked for the second time
	askLater        = 5 * time.Minute        // and then again and again
	turnFirst       = 150 * time.Millisecond // by which the device with the larger ID lets the other dial first
)
