package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// twin is one side of the comparison: a directory and what is open in it.
type twin struct {
	at   string
	open map[int]*os.File
}

func (w *twin) path(p string) string { return filepath.Join(w.at, p) }

// said is what one operation answered, in a form that compares.
func said(err error, more ...any) string {
	text := "ok"
	if err != nil {
		var e syscall.Errno
		switch {
		case errors.As(err, &e):
			text = e.Error()
		case err == io.EOF:
			text = "EOF"
		default:
			text = "failed"
		}
	}
	return text + " " + fmt.Sprint(more...)
}

var randomNames = []string{"a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "x y"}

func randomName(t *rapid.T, label string) string {
	return rapid.SampledFrom(randomNames).Draw(t, label)
}

func randomBytes(t *rapid.T) []byte {
	n := rapid.SampledFrom([]int{0, 1, 10, 4096, 65536, 70000, 200000}).Draw(t, "length")
	return bytes.Repeat([]byte{byte(rapid.IntRange(1, 255).Draw(t, "byte"))}, n)
}

func randomOffset(t *rapid.T) int64 {
	return rapid.SampledFrom([]int64{0, 1, 100, 4095, 65535, 65536, 65537, 131072, 300000}).Draw(t, "offset")
}

// TestLikeADirectory does the same random things in the mount and in a plain directory.
func TestLikeADirectory(t *testing.T) {
	_, at := mounted(t, inMemory(), nil)
	likeADirectory(t, at)
}

// likeADirectory compares a directory with a plain one.
func likeADirectory(t *testing.T, at string) {
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		mount := &twin{filepath.Join(at, fmt.Sprint(round)), map[int]*os.File{}}
		plain := &twin{filepath.Join(t.TempDir(), fmt.Sprint(round)), map[int]*os.File{}}
		both := func(do func(*twin) string) {
			rt.Helper()
			got, want := do(mount), do(plain)
			if got != want {
				rt.Fatalf("the mount says %.300s\nthe directory says %.300s", got, want)
			}
		}
		defer func() {
			for _, w := range []*twin{mount, plain} {
				for _, f := range w.open {
					f.Close()
				}
				os.RemoveAll(w.at)
			}
		}()
		both(func(w *twin) string { return said(os.Mkdir(w.at, 0o755)) })
		next := 0
		rt.Repeat(actions(both, &next, mount))
	})
}

// actions are what is done at random.
func actions(both func(func(*twin) string), next *int, one *twin) map[string]func(*rapid.T) {
	file := func(t *rapid.T) int {
		if len(one.open) == 0 {
			t.Skip("nothing is open")
		}
		ids := make([]int, 0, len(one.open))
		for id := range one.open {
			ids = append(ids, id)
		}
		sort.Ints(ids)
		return rapid.SampledFrom(ids).Draw(t, "file")
	}
	a := nameActions(both)
	a["open"] = func(t *rapid.T) {
		p := randomName(t, "path")
		flags := rapid.SampledFrom([]int{
			os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREATE, os.O_WRONLY | os.O_CREATE | os.O_EXCL,
			os.O_RDWR | os.O_CREATE | os.O_TRUNC, os.O_WRONLY | os.O_APPEND | os.O_CREATE, os.O_RDWR | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC,
		}).Draw(t, "flags")
		mode := rapid.SampledFrom([]os.FileMode{0o644, 0o600, 0o755}).Draw(t, "mode")
		id := *next
		*next++
		both(func(w *twin) string {
			f, err := os.OpenFile(w.path(p), flags, mode)
			if err == nil {
				w.open[id] = f
			}
			return said(err)
		})
	}
	a["close"] = func(t *rapid.T) {
		id := file(t)
		both(func(w *twin) string {
			err := w.open[id].Close()
			delete(w.open, id)
			return said(err)
		})
	}
	a["write"] = func(t *rapid.T) {
		id, b := file(t), randomBytes(t)
		both(func(w *twin) string {
			n, err := w.open[id].Write(b)
			return said(err, n)
		})
	}
	a["writeAt"] = func(t *rapid.T) {
		id, b, off := file(t), randomBytes(t), randomOffset(t)
		both(func(w *twin) string {
			n, err := unix.Pwrite(int(w.open[id].Fd()), b, off)
			return said(err, n)
		})
	}
	a["readAt"] = func(t *rapid.T) {
		id, off := file(t), randomOffset(t)
		both(func(w *twin) string {
			b := make([]byte, 150000)
			n, err := unix.Pread(int(w.open[id].Fd()), b, off)
			return said(err, n, sum(b[:max(n, 0)]))
		})
	}
	a["ftruncate"] = func(t *rapid.T) {
		id, n := file(t), randomOffset(t)
		both(func(w *twin) string { return said(unix.Ftruncate(int(w.open[id].Fd()), n)) })
	}
	a["fallocate"] = func(t *rapid.T) {
		id, off, n := file(t), randomOffset(t), randomOffset(t)+1
		mode := rapid.SampledFrom([]uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}).Draw(t, "mode")
		both(func(w *twin) string { return said(unix.Fallocate(int(w.open[id].Fd()), mode, off, n)) })
	}
	a["fstat"] = func(t *rapid.T) {
		id := file(t)
		both(func(w *twin) string {
			var st unix.Stat_t
			err := unix.Fstat(int(w.open[id].Fd()), &st)
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				st.Size, st.Nlink = 0, 0 // each file system has its own idea
			}
			return said(err, st.Size, " ", st.Mode, " ", st.Nlink)
		})
	}
	a["fsync"] = func(t *rapid.T) {
		id := file(t)
		both(func(w *twin) string { return said(w.open[id].Sync()) })
	}
	a[""] = func(t *rapid.T) {
		both(func(w *twin) string { return w.tree() })
	}
	return a
}

// nameActions are those on names.
func nameActions(both func(func(*twin) string)) map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"mkdir": func(t *rapid.T) {
			p := randomName(t, "path")
			both(func(w *twin) string { return said(os.Mkdir(w.path(p), 0o755)) })
		},
		"remove": func(t *rapid.T) {
			p := randomName(t, "path")
			both(func(w *twin) string { return said(unix.Unlink(w.path(p))) })
		},
		"rmdir": func(t *rapid.T) {
			p := randomName(t, "path")
			both(func(w *twin) string { return said(unix.Rmdir(w.path(p))) })
		},
		"rename": func(t *rapid.T) {
			from, to := randomName(t, "from"), randomName(t, "to")
			flags := rapid.SampledFrom([]uint{0, 0, 0, unix.RENAME_NOREPLACE}).Draw(t, "flags")
			both(func(w *twin) string {
				return said(unix.Renameat2(unix.AT_FDCWD, w.path(from), unix.AT_FDCWD, w.path(to), flags))
			})
		},
		"symlink": func(t *rapid.T) {
			p, to := randomName(t, "path"), randomName(t, "to")
			both(func(w *twin) string { return said(os.Symlink(to, w.path(p))) })
		},
		"truncate": func(t *rapid.T) {
			p, n := randomName(t, "path"), randomOffset(t)
			both(func(w *twin) string { return said(unix.Truncate(w.path(p), n)) })
		},
		"chmod": func(t *rapid.T) {
			p := randomName(t, "path")
			mode := rapid.SampledFrom([]uint32{0o600, 0o755, 0o444, 0o4755}).Draw(t, "mode")
			both(func(w *twin) string { return said(unix.Chmod(w.path(p), mode)) })
		},
		"utimes": func(t *rapid.T) {
			p := randomName(t, "path")
			at := unix.Timespec{Sec: rapid.Int64Range(0, 2_000_000_000).Draw(t, "sec"), Nsec: 5}
			both(func(w *twin) string {
				err := unix.UtimesNanoAt(unix.AT_FDCWD, w.path(p), []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
				var st unix.Stat_t
				if err == nil {
					err = unix.Lstat(w.path(p), &st)
				}
				return said(err, st.Mtim.Sec, " ", st.Mtim.Nsec)
			})
		},
		"read": func(t *rapid.T) {
			p := randomName(t, "path")
			both(func(w *twin) string {
				b, err := os.ReadFile(w.path(p))
				return said(err, len(b), sum(b))
			})
		},
	}
}

// sum is short for many bytes.
func sum(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// tree is everything that can be seen of the names.
func (w *twin) tree() string {
	var lines []string
	filepath.WalkDir(w.at, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			lines = append(lines, said(err))
			return nil
		}
		var st unix.Stat_t
		err = unix.Lstat(p, &st)
		size := st.Size
		if d.IsDir() {
			size = 0
		}
		target, _ := os.Readlink(p)
		lines = append(lines, said(err, strings.TrimPrefix(p, w.at), " ", st.Mode, " ", size, " ", target))
		return nil
	})
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
