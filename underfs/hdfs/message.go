package hdfs

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is a protobuf message being built. The messages of ClientProtocol are few and
// flat, and those that the library generated are internal to it.
type message []byte

// text adds a string or bytes field.
func (m message) text(field protowire.Number, v string) message {
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), v)
}

// number adds an unsigned or boolean field.
func (m message) number(field protowire.Number, v uint64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), v)
}

// signed adds an sint32 field.
func (m message) signed(field protowire.Number, v int64) message {
	return m.number(field, protowire.EncodeZigZag(v))
}

// flag adds a boolean field.
func (m message) flag(field protowire.Number, v bool) message {
	return m.number(field, protowire.EncodeBool(v))
}

// errGarbled says that an answer is no protobuf message.
var errGarbled = errors.New("the name node's answer is garbled")

// fields calls f with the number and value of each field: the bytes of a message or string,
// or a number.
func fields(b []byte, f func(field protowire.Number, bytes []byte, number uint64) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errGarbled
		}
		b = b[n:]
		var bytes []byte
		var number uint64
		switch typ {
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errGarbled
		}
		b = b[n:]
		if err := f(num, bytes, number); err != nil {
			return err
		}
	}
	return nil
}

// sub returns the message in one field of b, and whether it is there.
func sub(b []byte, field protowire.Number) (m []byte, ok bool, err error) {
	err = fields(b, func(num protowire.Number, bytes []byte, _ uint64) error {
		if num == field {
			m, ok = bytes, true
		}
		return nil
	})
	return m, ok, err
}

// num returns the number in one field of b, 0 where it is not there.
func num(b []byte, field protowire.Number) (v uint64, err error) {
	err = fields(b, func(num protowire.Number, _ []byte, number uint64) error {
		if num == field {
			v = number
		}
		return nil
	})
	return v, err
}
