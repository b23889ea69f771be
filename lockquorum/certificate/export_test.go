package certificate

// Contradict is the slow and obvious way that contradicted is held against.
func Contradict(a, b *Statement) bool { return contradict(a, b) }
