//go:build race

package webhook

// raceEnabled has buffers overwritten before they are used again, so that tests find who has kept one.
const raceEnabled = true
