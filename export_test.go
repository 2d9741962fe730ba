package webhook

// RaceEnabled says that the race detector runs.
const RaceEnabled = raceEnabled

// WithLock calls f while Dispatcher.mu is held.
func (d *Dispatcher) WithLock(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}
