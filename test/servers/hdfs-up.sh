#!/usr/bin/env bash
# hdfs-up.sh DIR [RPC_PORT] [HTTP_PORT]
#
# Start a real single-node HDFS (one NameNode, one DataNode) on 127.0.0.1 from
# Maven artifacts; nothing but java and mvn is needed. Idempotent: a second call
# with a live cluster in DIR just prints its addresses.
#
#   DIR        everything lives here: conf/ name/ data/ logs *.pid
#   RPC_PORT   NameNode RPC   (hdfs://127.0.0.1:RPC_PORT),    default 9820
#   HTTP_PORT  NameNode HTTP  (webhdfs://127.0.0.1:HTTP_PORT), default 9870
#   The DataNode takes HTTP_PORT+1 (HTTP), +2 (data transfer), +3 (IPC).
#
# Environment:
#   HADOOP_VERSION   default 3.4.3        NN_HEAP / DN_HEAP  default 192m / 128m
#   HDFS_MVN_OFFLINE=1   never touch the network (warm ~/.m2 needed)
#   HDFS_EXTRA       extra <property> elements for hdfs-site.xml
#   HDFS_PARENT      process with whose end the servers end, however it ends
# Exit status 77: the class path cannot be had (no mvn, or no network and a cold ~/.m2).
# Output (stdout): export lines for HDFS_URI, WEBHDFS_URI, HDFS_CONF (client configuration), HDFS_CLASSPATH_FILE; progress on stderr.
set -euo pipefail
DIR=${1:?usage: hdfs-up.sh DIR [RPC_PORT] [HTTP_PORT]}
mkdir -p "$DIR"; DIR=$(cd "$DIR" && pwd)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -f "$DIR/ports" ] && [ $# -lt 2 ]; then read -r RPC HTTP <"$DIR/ports"; else RPC=${2:-9820} HTTP=${3:-9870}; fi
V=${HADOOP_VERSION:-3.4.3}
CACHE=${SLUICE_TOOLS:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/sluice-tools}/hadoop-$V; CPF=$CACHE/cp.txt; mkdir -p "$CACHE"
log() { echo "hdfs-up: $*" >&2; }

# A pid file counts only while the process is still *our* java (DIR is on its command line).
alive() {
  local p; p=$(cat "$DIR/$1.pid" 2>/dev/null) || return 1
  # no pipe here: under pipefail an early-exiting `grep -q` makes its writer fail by SIGPIPE, at random
  [ -n "$p" ] && grep -qzxF -- "-Dlab.dir=$DIR" "/proc/$p/cmdline" 2>/dev/null
}
uris() { printf "export %s\n" "HDFS_URI=hdfs://127.0.0.1:$RPC" "WEBHDFS_URI=webhdfs://127.0.0.1:$HTTP" "HDFS_CONF=$DIR/client-conf" "HDFS_CLASSPATH_FILE=$CPF"; }

exec 9>"$DIR/.lock"; flock 9              # two concurrent callers: the second waits, then finds it up
if alive namenode && alive datanode; then read -r RPC HTTP <"$DIR/ports"; uris; exit 0; fi

# --- class path: resolved once per version, kept in the cache (works offline when ~/.m2 is warm)
cp_ok() { [ -s "$CPF" ] && ! tr ':' '\n' <"$CPF" | while read -r j; do [ -f "$j" ] || echo x; done | grep -q x; }
if ! cp_ok; then
  command -v mvn >/dev/null || { log "there is no mvn"; exit 77; }
  # another name and a rename: two callers at once never see half a file
  args=(-B -q -f "$HERE/hdfs/pom.xml" "-Dhadoop.version=$V" dependency:build-classpath "-Dmdep.outputFile=$CPF.$$")
  log "resolving hadoop $V class path with mvn"
  # offline first: no network round trips when the repository is warm
  mvn -o "${args[@]}" >"$DIR/mvn.log" 2>&1 || { [ -z "${HDFS_MVN_OFFLINE:-}" ] && mvn "${args[@]}" >"$DIR/mvn.log" 2>&1; } \
    || { tail -20 "$DIR/mvn.log" >&2; exit 77; }
  mv -f "$CPF.$$" "$CPF"
fi

# --- configuration
mkdir -p "$DIR/conf" "$DIR/tmp"
prop() { printf '  <property><name>%s</name><value>%s</value></property>\n' "$1" "$2"; }
{ echo '<configuration>'
  prop fs.defaultFS "hdfs://127.0.0.1:$RPC"
  prop hadoop.tmp.dir "$DIR/tmp"
  prop hadoop.http.staticuser.user "$(id -un)"
  prop hadoop.security.token.service.use_ip true
  # the user running the tests may impersonate anyone (doas=, proxy users)
  prop "hadoop.proxyuser.$(id -un).hosts" '*'
  prop "hadoop.proxyuser.$(id -un).groups" '*'
  echo '</configuration>'; } >"$DIR/conf/core-site.xml"
{ echo '<configuration>'
  prop dfs.namenode.name.dir "file://$DIR/name"
  prop dfs.datanode.data.dir "file://$DIR/data"
  prop dfs.namenode.rpc-address "127.0.0.1:$RPC"
  prop dfs.namenode.rpc-bind-host 127.0.0.1
  prop dfs.namenode.http-address "127.0.0.1:$HTTP"
  prop dfs.namenode.http-bind-host 127.0.0.1
  prop dfs.datanode.hostname 127.0.0.1          # what clients are redirected to
  prop dfs.datanode.http.address "127.0.0.1:$((HTTP+1))"
  prop dfs.datanode.address "127.0.0.1:$((HTTP+2))"
  prop dfs.datanode.ipc.address "127.0.0.1:$((HTTP+3))"
  prop dfs.namenode.datanode.registration.ip-hostname-check false
  prop dfs.replication 1
  prop dfs.webhdfs.enabled true
  prop dfs.permissions.enabled true
  prop dfs.namenode.acls.enabled true
  prop dfs.namenode.xattrs.enabled true
  prop dfs.namenode.fs-limits.min-block-size 4096   # lets tests use small blocks
  prop dfs.blocksize 8388608                        # several blocks with little data
  prop dfs.client.block.write.replace-datanode-on-failure.policy NEVER  # append with one DN
  prop dfs.namenode.safemode.extension 0            # leave safe mode at once
  prop dfs.namenode.safemode.min.datanodes 1
  prop dfs.heartbeat.interval 1
  prop dfs.namenode.replication.min 1
  prop dfs.namenode.audit.log.async false
  prop dfs.namenode.handler.count 8
  prop dfs.datanode.handler.count 4
  prop dfs.datanode.du.reserved 0
  printf '%s\n' "${HDFS_EXTRA:-}"
  echo '</configuration>'; } >"$DIR/conf/hdfs-site.xml"
# log4j 1 (reload4j): one log per process (stderr -> file), audit log to its own file
cat >"$DIR/conf/log4j.properties" <<X
log4j.rootLogger=INFO,C
log4j.appender.C=org.apache.log4j.ConsoleAppender
log4j.appender.C.target=System.err
log4j.appender.C.layout=org.apache.log4j.PatternLayout
log4j.appender.C.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n
log4j.logger.org.apache.hadoop.hdfs.server.namenode.FSNamesystem.audit=INFO,A
log4j.additivity.org.apache.hadoop.hdfs.server.namenode.FSNamesystem.audit=false
log4j.appender.A=org.apache.log4j.FileAppender
log4j.appender.A.File=\${lab.dir}/audit.log
log4j.appender.A.layout=org.apache.log4j.PatternLayout
log4j.appender.A.layout.ConversionPattern=%d{ISO8601} %m%n
X
# clients must not inherit the audit appender (or INFO noise): they get their own file
mkdir -p "$DIR/client-conf"; cp "$DIR/conf/core-site.xml" "$DIR/conf/hdfs-site.xml" "$DIR/client-conf/"
sed -e '/audit/d' -e '/appender.A/d' -e 's/^log4j.rootLogger=.*/log4j.rootLogger=WARN,C/' \
  "$DIR/conf/log4j.properties" >"$DIR/client-conf/log4j.properties"
echo "$RPC $HTTP" >"$DIR/ports"

# The published hadoop-hdfs jar has no webapps/ (the tarball ships them); empty ones satisfy HttpServer2.
mkdir -p "$DIR/conf/webapps/hdfs" "$DIR/conf/webapps/datanode"

# --- java: small heaps, serial GC; --add-opens is what Hadoop 3.4 wants on JDK 17
CP=$DIR/conf:$(cat "$CPF")
JOPTS=("-Dlab.dir=$DIR" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto
       -Djava.net.preferIPv4Stack=true "-Djava.io.tmpdir=$DIR/tmp"
       --add-opens=java.base/java.lang=ALL-UNNAMED --add-opens=java.base/java.net=ALL-UNNAMED
       --add-opens=java.base/java.util=ALL-UNNAMED)
JAVA=${JAVA_HOME:+$JAVA_HOME/bin/}java
export HADOOP_HOME=$DIR/tmp               # only silences a warning
spawn() { # name heap class args...
  local n=$1 h=$2; shift 2
  # setsid: survives the caller's process group. Every inherited descriptor above 2 is closed:
  # otherwise a daemon keeps the caller's flock(1) lock (or a pipe) for as long as it lives.
  ( for fd in /proc/self/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-" 2>/dev/null || :; done
    exec setsid "$JAVA" "-Xmx$h" "${JOPTS[@]}" -cp "$CP" "$@" </dev/null >>"$DIR/$n.log" 2>&1 ) &
  echo $! >"$DIR/$n.pid"
  # until exec is done the command line is still bash's: wait, so that alive() tells the truth on a busy machine
  for _ in $(seq 1 100); do alive "$n" && return; kill -0 $! 2>/dev/null || return 0; sleep 0.1; done
}
if [ ! -f "$DIR/name/current/VERSION" ]; then
  log "formatting"
  "$JAVA" -Xmx128m "${JOPTS[@]}" -cp "$CP" org.apache.hadoop.hdfs.server.namenode.NameNode \
    -format -force -nonInteractive -clusterId test >"$DIR/format.log" 2>&1 9>&- || { tail -20 "$DIR/format.log" >&2; exit 1; }
fi
alive namenode || spawn namenode "${NN_HEAP:-192m}" org.apache.hadoop.hdfs.server.namenode.NameNode
alive datanode || spawn datanode "${DN_HEAP:-128m}" org.apache.hadoop.hdfs.server.datanode.DataNode

if [ -n "${HDFS_PARENT:-}" ]; then
  ( for fd in /proc/self/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-" 2>/dev/null || :; done
    exec setsid bash -c 'while kill -0 "$1" 2>/dev/null && [ -f "$3/namenode.pid" ]; do sleep 1; done; exec "$2" "$3"' \
      watch "$HDFS_PARENT" "$HERE/hdfs-down.sh" "$DIR" </dev/null >/dev/null 2>&1 ) &
fi

# --- ready = JMX says: safe mode off and one live DataNode
for _ in $(seq 1 600); do
  for p in namenode datanode; do
    alive $p || { log "$p died:"; tail -60 "$DIR/$p.log" | grep -v STARTUP_MSG >&2; exit 1; }
  done
  if j=$(curl -sf -m 5 "http://127.0.0.1:$HTTP/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState" 2>/dev/null) &&
     grep -q '"FSState" : "Operational"' <<<"$j" && grep -q '"NumLiveDataNodes" : 1' <<<"$j" &&
     curl -sf -m 5 -o /dev/null "http://127.0.0.1:$((HTTP+1))/jmx?qry=x"; then uris; exit 0; fi
  sleep 0.2
done
log "not ready after 120 s"; tail -60 "$DIR/namenode.log" | grep -v STARTUP_MSG >&2; exit 1
