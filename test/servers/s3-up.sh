#!/bin/bash
# s3-up.sh DIR [PORT=17070] - versitygw v1.8.0 (Apache-2.0), posix backend, as an S3 server on
# loopback. Objects are plain files in DIR/data/BUCKET (metadata in user.* xattrs), so a
# test can look at, damage or seed them underneath. Data is kept over a restart; remove
# DIR/data for an empty server.
# --keep-alive is on: without it versitygw closes every connection after one response.
# Options (env): S3_BUCKET (default test, made at start), S3_VERSIONING=1 (versioning can be
#   switched on per bucket; old versions in DIR/versions), S3_ACCESS/S3_SECRET,
#   S3_DATA=/elsewhere (e.g. a tmpfs), S3_ARGS/S3_POSIX_ARGS (further gateway/backend flags,
#   e.g. S3_ARGS=--readonly, "--cert C --key K" for TLS).
. "$(dirname "$(readlink -f "$0")")/lib.sh"
up_begin 17070 "$@"
need_apt curl
need_tool versitygw v1.8.0 github.com/versity/versitygw/cmd/versitygw
ports 1
DATA=${S3_DATA:-$DIR/data}; AK=${S3_ACCESS:-test}; SK=${S3_SECRET:-testtest}; B=${S3_BUCKET:-test}
mkdir -p "$DATA"
/usr/bin/python3 -c 'import os,sys; os.setxattr(sys.argv[1], "user.t", b"1"); os.removexattr(sys.argv[1], "user.t")' \
  "$DATA" 2>/dev/null || S3_POSIX_ARGS="${S3_POSIX_ARGS:-} --sidecar $DIR/meta"
case ${S3_POSIX_ARGS:-} in *--sidecar*) mkdir -p "$DIR/meta" ;; esac
[ -z "${S3_VERSIONING:-}" ] || { mkdir -p "$DIR/versions"; S3_POSIX_ARGS="${S3_POSIX_ARGS:-} --versioning-dir $DIR/versions"; }
spawn versitygw env ROOT_ACCESS_KEY="$AK" ROOT_SECRET_KEY="$SK" "$BIN" --port "127.0.0.1:$PORT" \
  --keep-alive --health /healthz --quiet ${S3_ARGS:-} posix ${S3_POSIX_ARGS:-} "$DATA"
U=http://127.0.0.1:$PORT; case ${S3_ARGS:-} in *--cert*) U=https://127.0.0.1:$PORT ;; esac
wait_for 30 versitygw curl -skf "$U/healthz"
# ready = a signed request makes the bucket, and one lists it (a restart keeps the bucket)
s3() { curl -sk --aws-sigv4 aws:amz:us-east-1:s3 -u "$AK:$SK" -H "x-amz-content-sha256: $EMPTY" "$@"; }
EMPTY=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
ready() { s3 -f "$U/$B?list-type=2" || { s3 -f -X PUT "$U/$B"; return 1; }; }
wait_for 20 "versitygw bucket $B" ready
up_done "S3_ENDPOINT=$U" "S3_BUCKET=$B" S3_REGION=us-east-1 "AWS_ACCESS_KEY_ID=$AK" \
  "AWS_SECRET_ACCESS_KEY=$SK" AWS_REGION=us-east-1 "S3_DATA=$DATA" "S3_PID=$(head -1 "$DIR/pids")"
