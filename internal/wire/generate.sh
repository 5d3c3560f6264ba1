#!/bin/sh
# Regenerates the Go code of the messages. Needs protoc and, on PATH,
# protoc-gen-go v1.36.12 and protoc-gen-go-vtproto v0.6.1-0.20240319094008.
# The result is committed: neither building nor testing needs this.
set -eu
cd "$(dirname "$0")"
protoc -I . --go_out=. --go_opt=paths=source_relative \
  --go-vtproto_out=. --go-vtproto_opt=paths=source_relative,features=marshal+unmarshal+size \
  words.proto command.proto rpc.proto peer.proto
