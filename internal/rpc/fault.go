package rpc

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	sluice "github.com/sluicefs/sluice"
)

// fault is an error on its way over the wire, a protobuf message: 1 kind, 2 operation,
// 3 path, 4 primary, 5 text of the cause.
type fault struct {
	kind    sluice.Kind
	op      string
	path    string
	primary string
	text    string
}

const maxText = 16 << 10

// toFault takes from err what survives the wire.
func toFault(err error) *fault {
	e, ok := errors.AsType[*sluice.Error](err)
	if !ok || error(e) != err {
		// What wraps an Error adds text that must not be lost.
		e = &sluice.Error{Kind: sluice.KindOf(err), Err: err}
		if in, ok := errors.AsType[*sluice.Error](err); ok {
			e.Primary = in.Primary
		}
	}
	f := &fault{kind: e.Kind, op: e.Op, path: string(e.Path), primary: e.Primary}
	if e.Err != nil {
		f.text = e.Err.Error()
	}
	f.op, f.path, f.primary, f.text = cut(f.op), cut(f.path), cut(f.primary), cut(f.text)
	return f
}

func cut(s string) string {
	if len(s) > maxText {
		return s[:maxText]
	}
	return s
}

// toError makes the error the caller gets.
func (f *fault) toError() error {
	e := &sluice.Error{Kind: f.kind, Op: f.op, Path: sluice.Path(f.path), Primary: f.primary}
	if int(f.kind) >= len(sluice.Kinds()) {
		e.Kind = sluice.Internal
	}
	if f.text != "" {
		e.Err = errors.New(f.text)
	}
	return e
}

// SizeVT is that of [Message].
func (f *fault) SizeVT() int {
	n := 1 + protowire.SizeVarint(uint64(f.kind))
	for _, s := range []string{f.op, f.path, f.primary, f.text} {
		if s != "" {
			n += 1 + protowire.SizeBytes(len(s))
		}
	}
	return n
}

// MarshalToSizedBufferVT is that of [Message].
func (f *fault) MarshalToSizedBufferVT(b []byte) (int, error) {
	out := protowire.AppendVarint(append(b[:0], 1<<3), uint64(f.kind))
	for i, s := range []string{f.op, f.path, f.primary, f.text} {
		if s != "" {
			out = protowire.AppendTag(out, protowire.Number(i+2), protowire.BytesType)
			out = protowire.AppendString(out, s)
		}
	}
	return len(out), nil
}

// UnmarshalVT is that of [Message].
func (f *fault) UnmarshalVT(b []byte) error {
	return fields(b, func(n protowire.Number, v uint64, s []byte) {
		switch n {
		case 1:
			f.kind = sluice.Kind(min(v, 255))
		case 2:
			f.op = string(s)
		case 3:
			f.path = string(s)
		case 4:
			f.primary = string(s)
		case 5:
			f.text = string(s)
		}
	})
}

// fields calls set for each varint (v), fixed64 (v) and bytes (s) field of a protobuf
// message; others are skipped.
func fields(b []byte, set func(n protowire.Number, v uint64, s []byte)) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errFrame
		}
		b = b[n:]
		switch typ {
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n >= 0 {
				set(num, v, nil)
			}
		case protowire.Fixed64Type:
			var v uint64
			if v, n = protowire.ConsumeFixed64(b); n >= 0 {
				set(num, v, nil)
			}
		case protowire.BytesType:
			var s []byte
			if s, n = protowire.ConsumeBytes(b); n >= 0 {
				set(num, 0, s)
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errFrame
		}
		b = b[n:]
	}
	return nil
}

func fail(kind sluice.Kind, format string, args ...any) error {
	return &sluice.Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// ended is the error of a call whose context is over.
func ended(ctx context.Context) error {
	err := context.Cause(ctx)
	if err == nil {
		err = ctx.Err()
	}
	kind := sluice.Cancelled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = sluice.Timeout
	}
	return &sluice.Error{Kind: kind, Err: err}
}
