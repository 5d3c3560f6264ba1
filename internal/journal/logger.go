package journal

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLogger hands what Raft says to slog. Its chatter is for debugging; what an
// operator can act on, the journal says itself.
type raftLogger struct{ log *slog.Logger }

func (l raftLogger) say(level slog.Level, text string) {
	l.log.Log(context.Background(), level, "raft", slog.String("says", text))
}

func (l raftLogger) Debug(v ...any)                {}
func (l raftLogger) Debugf(string, ...any)         {}
func (l raftLogger) Info(v ...any)                 { l.say(slog.LevelDebug, fmt.Sprint(v...)) }
func (l raftLogger) Infof(format string, v ...any) { l.say(slog.LevelDebug, fmt.Sprintf(format, v...)) }
func (l raftLogger) Warning(v ...any)              { l.say(slog.LevelWarn, fmt.Sprint(v...)) }
func (l raftLogger) Warningf(format string, v ...any) {
	l.say(slog.LevelWarn, fmt.Sprintf(format, v...))
}
func (l raftLogger) Error(v ...any) { l.say(slog.LevelError, fmt.Sprint(v...)) }
func (l raftLogger) Errorf(format string, v ...any) {
	l.say(slog.LevelError, fmt.Sprintf(format, v...))
}
func (l raftLogger) Fatal(v ...any)                 { l.Panic(v...) }
func (l raftLogger) Fatalf(format string, v ...any) { l.Panicf(format, v...) }

// Panic is a broken invariant of Raft's.
func (l raftLogger) Panic(v ...any) {
	l.say(slog.LevelError, fmt.Sprint(v...))
	panic(fmt.Sprint(v...))
}

// Panicf is a broken invariant of Raft's.
func (l raftLogger) Panicf(format string, v ...any) { l.Panic(fmt.Sprintf(format, v...)) }
