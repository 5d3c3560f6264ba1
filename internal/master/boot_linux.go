package master

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootClock returns the host's clock that never jumps and counts while asleep.
func bootClock() func() time.Duration {
	return func() time.Duration {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
			panic("master: no boot-time clock: " + err.Error())
		}
		return time.Duration(t.Nano())
	}
}
