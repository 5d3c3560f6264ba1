// Package hdfs is the driver of HDFS by its own protocols: bytes by
// github.com/colinmarc/hdfs, names by the calls of ClientProtocol that it makes itself, with
// contexts and with retries that a name node recognises. What HDFS promises, and how wide
// the remaining windows are, is said in package namenode.
//
// Files that are encrypted or erasure-coded are refused, because the library would hand out
// their ciphertext or stripes; with the property webhdfs they are read by WebHDFS. Users are
// believed what they say they are (simple authentication); a cluster that wants Kerberos
// refuses, and conn.handshake and clientOptions are where it would go. It retries what was
// not answered, keeps no cache and at most a few idle connections.
package hdfs

import (
	"cmp"
	"context"
	"io"
	"net"
	"path"

	"github.com/colinmarc/hdfs/v2"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
	"github.com/sluicefs/sluice/underfs/namenode"
	"github.com/sluicefs/sluice/underfs/webhdfs"
)

// Driver makes stores of the scheme "hdfs".
type Driver struct {
	// Dial connects to name nodes and data nodes; nil is net.Dialer's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Schemes returns "hdfs".
func (Driver) Schemes() []string { return []string{"hdfs"} }

// Settings describes the properties.
func (Driver) Settings() []underfs.Setting {
	return []underfs.Setting{
		{Name: "user", Help: "user that HDFS is asked as; else the user that Sluice runs as"},
		{Name: "hadoop_conf", Help: "directory with core-site.xml and hdfs-site.xml: name services, hdfs:///path, replication, block size and datanode host names are taken from it"},
		{Name: "replication", Help: "copies of the blocks of files written, 1 to 512; else dfs.replication of hadoop_conf, else the cluster's default"},
		{Name: "block_size", Help: "bytes of the blocks of files written, a multiple of 512; else dfs.blocksize of hadoop_conf, else the cluster's default"},
		{Name: "datanode_hostname", Help: "true: data nodes are reached by their host names, false: by their addresses; else dfs.client.use.datanode.hostname of hadoop_conf, else false"},
		{Name: "webhdfs", Help: "webhdfs://host:port or swebhdfs://host:port of the same cluster, by which files are read that are encrypted or erasure-coded; without it they are refused"},
	}
}

// Open makes a store of hdfs://host:port,host:port/path. Nothing is asked of the network.
func (d Driver) Open(cfg underfs.Config) (underfs.Store, error) {
	set, err := d.read(cfg)
	if err != nil {
		return nil, err
	}
	plain, err := set.plain(cfg, d.Dial)
	if err != nil {
		return nil, err
	}
	n := newNode(set)
	return namenode.New(namenode.Config{
		Top: set.top, Node: n, Data: newData(n, set), Plain: plain,
		Advice: "set the property webhdfs, so that it is read by WebHDFS, or mount it by webhdfs://",
	}), nil
}

// plain returns the WebHDFS side that decrypts and decodes, nil where there is none.
func (s *settings) plain(cfg underfs.Config, dial func(context.Context, string, string) (net.Conn, error)) (namenode.Data, error) {
	if s.webhdfs == "" {
		return nil, nil
	}
	return webhdfs.Driver{Dial: dial}.Data(underfs.Config{
		URI: s.webhdfs, Properties: map[string]string{"user": s.user}, Options: cfg.Options,
	})
}

// Baseline opens plain reads and writes by the library.
func (d Driver) Baseline(cfg underfs.Config) (underfs.Baseline, error) {
	set, err := d.read(cfg)
	if err != nil {
		return nil, err
	}
	opts := set.options
	opts.Addresses = set.hosts
	opts.NamenodeDialFunc, opts.DatanodeDialFunc = set.dial, set.dial
	c, err := hdfs.NewClient(opts)
	if err != nil {
		return nil, underfs.Fail("open store", "", sluice.Unavailable, err)
	}
	return &baseline{c: c, set: set}, nil
}

// baseline is the library alone.
type baseline struct {
	c   *hdfs.Client
	set settings
}

// fail names the operation and key of one of the library's errors.
func (b *baseline) fail(op string, key underfs.Key, err error) error {
	if err == nil {
		return nil
	}
	err = translate(err)
	return underfs.Fail(op, key, namenode.KindOf(err), err)
}

// Get implements underfs.Baseline.
func (b *baseline) Get(_ context.Context, key underfs.Key, w io.Writer) (int64, error) {
	f, err := b.c.Open(path.Join(b.set.top, string(key)))
	if err != nil {
		return 0, b.fail("get", key, err)
	}
	defer f.Close()
	n, err := io.Copy(w, f)
	return n, b.fail("get", key, err)
}

// Put implements underfs.Baseline: what was there is removed, since the library does not
// replace.
func (b *baseline) Put(ctx context.Context, key underfs.Key, r io.Reader, _ int64) error {
	name := path.Join(b.set.top, string(key))
	if err := b.c.RemoveAll(name); err != nil {
		return b.fail("put", key, err)
	}
	def, err := b.c.ServerDefaults()
	if err != nil {
		return b.fail("put", key, err)
	}
	f, err := b.c.CreateFile(name, cmp.Or(b.set.replication, def.Replication), cmp.Or(b.set.block, def.BlockSize), 0o644)
	if err != nil {
		return b.fail("put", key, err)
	}
	_, err = io.Copy(f, r)
	err2 := f.Close()
	for tries := 0; hdfs.IsErrReplicating(err2) && tries < baselineCloses; tries++ {
		pause(ctx, closeFirst)
		err2 = f.Close()
	}
	return b.fail("put", key, cmp.Or(err, err2))
}

// baselineCloses is how often the library is asked to close a file: it may never succeed,
// see writer.finishLocked.
const baselineCloses = 1000

// Close implements underfs.Baseline.
func (b *baseline) Close() error { return b.fail("close", "", b.c.Close()) }
