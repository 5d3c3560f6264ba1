package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/sluicefs/sluice"
)

// appendJob is one thing for the appender to do.
type appendJob struct {
	message raftpb.Message // of type MsgStorageAppend, or empty
	confs   []members
	written chan struct{} // closed when confs are durable
	remove  []string      // segments that are no longer needed
}

// applyJob is committed entries for the Machine.
type applyJob struct {
	message raftpb.Message  // of type MsgStorageApply
	after   <-chan struct{} // wait for this first, if not nil
}

// probeInterval is how often the appender looks for room on the disk.
const probeInterval = time.Second

// appender writes to the log. All that has gathered while a sync ran shares the next.
func (j *Journal) appender() {
	probe := time.NewTicker(probeInterval)
	defer probe.Stop()
	var jobs []appendJob
	for {
		select {
		case <-j.stop:
			return
		case <-probe.C:
			j.store.probe()
			continue
		case <-j.appends.wake:
		}
		jobs = j.appends.take(jobs)
		if !j.write(jobs, probe.C) {
			return
		}
	}
}

// write carries out what has gathered, and says whether to go on. While there is no
// room it tries again and again: Raft cannot take back what it has been told.
func (j *Journal) write(jobs []appendJob, probe <-chan time.Time) bool {
	var b batch
	var remove []string
	for _, job := range jobs {
		remove = append(remove, job.remove...)
		b.confs = append(b.confs, job.confs...)
		if job.message.Type == raftpb.MsgStorageAppend {
			b.messages = append(b.messages, job.message)
		}
	}
	if err := j.store.remove(remove); err != nil {
		j.cfg.Log.Warn("an old file of the journal stays", slog.Any("cause", err))
	}
	for _, m := range b.messages {
		if m.Snapshot != nil { // the loop lets none through to Raft
			j.fail(errors.New("a snapshot of the state came as far as the log"))
			return false
		}
	}
	for {
		err := j.store.append(b)
		if err == nil {
			break
		}
		if !noRoom(err) {
			j.fail(err)
			return false
		}
		j.store.setFull(true)
		select {
		case <-j.stop:
			return false
		case <-probe:
		}
	}
	for _, job := range jobs {
		if job.written != nil {
			close(job.written)
		}
		if len(job.message.Responses) > 0 {
			j.inbox.put(job.message.Responses)
		}
	}
	return true
}

// applier drives the Machine.
func (j *Journal) applier() {
	unflushed, bytes := 0, 0
	var jobs []applyJob
	for {
		select {
		case <-j.stop:
			return
		case <-j.applies.wake:
		}
		jobs = j.applies.take(jobs)
		for _, job := range jobs {
			if job.after != nil {
				select {
				case <-job.after:
				case <-j.stop:
					return
				}
			}
			for _, e := range job.message.Entries {
				if !j.apply(e) {
					return
				}
				unflushed++
				bytes += len(e.Data)
			}
			j.inbox.put(job.message.Responses)
		}
		if unflushed >= j.cfg.FlushEntries || bytes >= j.cfg.FlushBytes {
			unflushed, bytes = 0, 0
			select {
			case j.flush <- struct{}{}:
			default:
			}
		}
	}
}

// apply applies one entry, answers who waits for it, and says whether to go on.
func (j *Journal) apply(e raftpb.Entry) bool {
	entry := Entry{Index: sluice.Index(e.Index), Term: sluice.Term(e.Term)}
	if e.Type == raftpb.EntryNormal {
		entry.Data = e.Data
	}
	value := j.cfg.Machine.Apply(entry)
	if h, ok := value.(Halt); ok {
		j.fail(fmt.Errorf("entry %d of term %d: %w", e.Index, e.Term, h.Err))
		return false
	}
	j.mu.Lock()
	p := j.waiting[e.Index]
	delete(j.waiting, e.Index)
	j.applied = e.Index
	if j.role.primary && j.role.term == e.Term {
		j.setLeadingLocked(entry.Term)
	}
	var ready []*barrier
	rest := j.readers[:0]
	for _, b := range j.readers {
		if b.index <= e.Index {
			ready = append(ready, b)
		} else {
			rest = append(rest, b)
		}
	}
	j.readers = rest
	j.mu.Unlock()
	if p != nil {
		a := answer{value: value}
		if p.term != e.Term {
			a = answer{err: sluice.NotPrimary} // another primary's entry took its place
		}
		j.finish(p, a)
	}
	for _, b := range ready {
		b.answer <- answer{index: b.index}
	}
	return true
}
