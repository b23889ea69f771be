package wholefile

import "os"

const renamesOpen = false

// lock does nothing: a file that is open cannot be removed here.
func lock(*os.File) error { return nil }

func removeUnlocked(name string) { _ = os.Remove(name) }

func syncFolder(string) error { return nil }
