package underfs

// As finds an optional capability of s: one of [Completer], [Renamer], [Copier],
// [Directories], [Attributer], [Sweeper], [Prober]. What it returns goes through the
// interceptors around s, so that a deadline or limit holds for it too. A plain type
// assertion on an intercepted store would say yes to everything; use As.
func As[T any](s Store) (T, bool) {
	t, ok := s.(T)
	if i, wrapped := s.(*intercepted); ok && wrapped {
		_, ok = As[T](i.next)
	}
	if !ok {
		var zero T
		return zero, false
	}
	return t, true
}
