package webhook

// RaceEnabled says that the race detector runs.
const RaceEnabled = raceEnabled
