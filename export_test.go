package webhook

// RaceEnabled says that the race detector runs.
const RaceEnabled = raceEnabled

// LinesInOrder reports whether every line is in the order in which it gives places away: an app's place in it follows all
// that the order goes by.
func (d *Dispatcher) LinesInOrder() bool {
	d.schedule.mu.Lock()
	defer d.schedule.mu.Unlock()
	for c := range d.schedule.lines {
		q := &d.schedule.lines[c]
		for i, a := range q.apps {
			if a.at[c] != i || i > 0 && q.Less(i, (i-1)/2) {
				return false
			}
		}
	}
	return true
}

// HasAccount reports whether anything is kept of an app.
func (d *Dispatcher) HasAccount(id string) bool { return d.accounts.load(id) != nil }

// LongestAccountList is how many accounts the search for one looks at, at the most.
func (d *Dispatcher) LongestAccountList() (longest int) {
	for i := range d.accounts.lists {
		if all := d.accounts.lists[i].Load(); all != nil {
			longest = max(longest, len(*all))
		}
	}
	return longest
}

// WithLock calls f while Dispatcher.mu is held.
func (d *Dispatcher) WithLock(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}
