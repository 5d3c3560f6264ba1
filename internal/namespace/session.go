package namespace

import (
	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/internal/wire"
)

// maxSessions bounds the sessions, each of which may have a window of answers.
const maxSessions = 1 << 16

// inlineRows is how much of an ended session is taken away at once; more goes in steps.
const inlineRows = 500

// sessionOf finds the session of a request, nil where it is to be answered
// UnknownOutcome.
func (w *writer) sessionOf(r *wire.RequestID) *sessionState {
	st := w.sessions[sluice.SessionID(r.Session)]
	if st == nil || r.Seq < st.lowest || r.Seq < r.Lowest {
		return nil
	}
	return st
}

// recall returns the answer of a request that is not to be executed, nil for one that
// is.
func (w *writer) recall(r *wire.RequestID) (*wire.Answer, error) {
	if r == nil {
		return nil, nil
	}
	st := w.sessionOf(r)
	if st == nil {
		return answerOf(fail(sluice.UnknownOutcome, "the session has ended or the request is below its window; look before you repeat it")), nil
	}
	if _, ok := st.seqs[r.Seq]; ok {
		row, err := as[answerRow](w.get(key128(tagAnswer, r.Session, r.Seq)))
		if err != nil {
			return nil, err
		}
		return row.decode(), nil
	}
	w.acknowledge(r.Session, st, r.Lowest)
	if uint64(len(st.seqs)) >= w.meta.window {
		w.keepLowest(r.Session, st)
		return answerOf(fail(sluice.Busy, "the session has %d answers unacknowledged, the most it may", len(st.seqs))), nil
	}
	return nil, nil
}

// decode returns the remembered answer.
func (r *answerRow) decode() *wire.Answer {
	a := &wire.Answer{}
	if err := a.UnmarshalVT(r.answer); err != nil {
		return answerOf(fail(sluice.UnknownOutcome, "the remembered answer is damaged"))
	}
	return a
}

// acknowledge forgets the answers below lowest. It is an effect of the request, not of
// its command, and the highest lowest is kept with the request's own answer.
func (w *writer) acknowledge(session uint64, st *sessionState, lowest uint64) {
	if lowest <= st.lowest {
		return
	}
	forget := func(seq uint64) {
		delete(st.seqs, seq)
		w.entry[string(key128(tagAnswer, session, seq))] = nil
	}
	if lowest-st.lowest <= uint64(len(st.seqs)) {
		for seq := st.lowest; seq < lowest; seq++ {
			if _, ok := st.seqs[seq]; ok {
				forget(seq)
			}
		}
	} else {
		for seq := range st.seqs {
			if seq < lowest {
				forget(seq)
			}
		}
	}
	st.lowest = lowest
}

// remember keeps the answer of an executed request. What may be sent again was not
// executed and is not remembered.
func (w *writer) remember(r *wire.RequestID, a *wire.Answer) {
	if r == nil {
		return
	}
	st := w.sessions[sluice.SessionID(r.Session)]
	if st == nil {
		return
	}
	if a.Error != nil && sluice.Kind(a.Error.Kind).Retriable() {
		if st.lowest == r.Lowest {
			w.keepLowest(r.Session, st)
		}
		return
	}
	st.seqs[r.Seq] = struct{}{}
	w.entry[string(key128(tagAnswer, r.Session, r.Seq))] = &answerRow{lowest: st.lowest, intent: a.Intent, answer: marshalAnswer(a)}
}

// keepLowest writes the session's window where no answer does.
func (w *writer) keepLowest(session uint64, st *sessionState) {
	r, err := as[sessionRow](w.get(key64(tagSession, session)))
	if err != nil || r == nil || r.lowest == st.lowest {
		return
	}
	c := *r
	c.lowest = st.lowest
	w.entry[string(key64(tagSession, session))] = &c
}

// marshalAnswer encodes an answer. It has no maps: they have no fixed order.
func marshalAnswer(a *wire.Answer) []byte {
	b, err := a.MarshalVT()
	if err != nil {
		panic("namespace: encode an answer: " + err.Error())
	}
	return b
}

func (w *writer) openSession(c *wire.OpenSession, by *sluice.Principal) (*wire.Answer, error) {
	id := sluice.SessionID(c.Session)
	if id == 0 {
		return nil, fail(sluice.Invalid, "a session needs an id")
	}
	user := ""
	if by != nil {
		user = by.User
	}
	if w.sessions[id] != nil {
		old, err := as[sessionRow](w.get(key64(tagSession, c.Session)))
		if err != nil {
			return nil, err
		}
		if old.user != user {
			return nil, fail(sluice.Permission, "the session belongs to somebody else")
		}
		return &wire.Answer{Epoch: old.epoch}, nil
	}
	left := false
	for _, tag := range []byte{tagAnswer, tagSessionOf} {
		p := key64(tag, c.Session)
		err := w.scan(p, prefixEnd(p), func(string, row) (bool, error) {
			left = true
			return false, nil
		})
		if err != nil {
			return nil, err
		}
	}
	if left {
		return nil, fail(sluice.Busy, "an earlier session of that id is still being taken away")
	}
	if len(w.sessions) >= maxSessions {
		return nil, fail(sluice.Busy, "there are %d client sessions, the most there may be", len(w.sessions))
	}
	w.meta.epoch++
	w.put(key64(tagSession, c.Session), &sessionRow{epoch: w.meta.epoch, user: user, opened: w.tick})
	w.sessions[id] = &sessionState{epoch: w.meta.epoch, seqs: map[uint64]struct{}{}}
	w.revert(func() { delete(w.sessions, id) })
	return &wire.Answer{Epoch: w.meta.epoch}, nil
}

// closeSession ends a session: at once nobody can use it, and what it left is taken
// away, in steps if it is much. With an epoch it is an expiry, which a later life of the
// session survives.
func (w *writer) closeSession(id sluice.SessionID, epoch *uint64) (*wire.Answer, error) {
	st := w.sessions[id]
	if st == nil || epoch != nil && *epoch != st.epoch {
		return &wire.Answer{}, nil
	}
	delete(w.sessions, id)
	w.revert(func() { w.sessions[id] = st })
	w.del(key64(tagSession, uint64(id)))
	_, more, err := w.reapSession(id, inlineRows)
	if err != nil || !more {
		return &wire.Answer{}, err
	}
	w.meta.intent++
	w.put(key64(tagDetached, w.meta.intent), &detachedRow{session: id, since: w.tick})
	return &wire.Answer{Detached: w.meta.intent}, nil
}

// reapSession takes away at most limit writers and answers of an ended session, and
// says whether there are more.
func (w *writer) reapSession(id sluice.SessionID, limit int) (n int, more bool, err error) {
	type writerOf struct {
		file    sluice.FileID
		content sluice.ContentID
	}
	var writers []writerOf
	var answers []string
	full := func() bool { return len(writers)+len(answers) >= limit }
	p := key64(tagSessionOf, uint64(id))
	err = w.scan(p, prefixEnd(p), func(key string, _ row) (bool, error) {
		if full() {
			more = true
			return false, nil
		}
		writers = append(writers, writerOf{sluice.FileID(be64(key, 9)), sluice.ContentID{Incarnation: sluice.Incarnation(be64(key, 17)), Counter: be64(key, 25)}})
		return true, nil
	})
	if err != nil {
		return 0, false, err
	}
	p = key64(tagAnswer, uint64(id))
	err = w.scan(p, prefixEnd(p), func(key string, _ row) (bool, error) {
		if full() {
			more = true
			return false, nil
		}
		answers = append(answers, key)
		return true, nil
	})
	if err != nil {
		return 0, false, err
	}
	for _, x := range writers {
		if err := w.endWriter(x.file, x.content); err != nil {
			return 0, false, err
		}
	}
	for _, key := range answers {
		w.del([]byte(key))
	}
	return len(writers) + len(answers), more, nil
}

// endWriter abandons one writer, unless its commit is under way.
func (w *writer) endWriter(file sluice.FileID, c sluice.ContentID) error {
	wr, err := as[writerRow](w.get(writerKey(file, c)))
	if err != nil || wr == nil {
		return err
	}
	if wr.intent != 0 {
		w.del(sessionOfKey(wr.session, file, c)) // from the intent on it is rolled forward only
		return nil
	}
	return w.dropWriter(file, c, wr, true)
}
