package hdfs

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/colinmarc/hdfs/v2"
	"github.com/colinmarc/hdfs/v2/hadoopconf"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/underfs"
)

// defaultPort is a name node's, where neither the URI nor a configuration says.
const defaultPort = "8020"

// settings are a Config that was read and checked.
type settings struct {
	top         string   // the directory that is mounted
	hosts       []string // name nodes
	user        string
	replication int   // 0: the cluster's
	block       int64 // 0: the cluster's
	webhdfs     string
	options     hdfs.ClientOptions // but for addresses and dialling
	dial        func(context.Context, string, string) (net.Conn, error)
}

// invalid makes an error about settings.
func invalid(format string, args ...any) error {
	return underfs.Fail("open store", "", sluice.Invalid, fmt.Errorf(format, args...))
}

// read checks cfg.
func (d Driver) read(cfg underfs.Config) (settings, error) {
	set := settings{dial: dialer(d.Dial)}
	authority, top, err := split(cfg.URI)
	if err != nil {
		return set, err
	}
	set.top = top
	conf, err := load(cfg.Properties["hadoop_conf"])
	if err != nil {
		return set, err
	}
	if set.hosts, err = hosts(authority, conf); err != nil {
		return set, err
	}
	if set.user, err = userName(cfg.Properties["user"]); err != nil {
		return set, err
	}
	if set.options, err = clientOptions(set.user, cfg.Properties["datanode_hostname"], conf); err != nil {
		return set, err
	}
	if v := cmp.Or(cfg.Properties["replication"], conf["dfs.replication"]); v != "" {
		if set.replication, err = strconv.Atoi(v); err != nil || set.replication < 1 || set.replication > 512 {
			return set, invalid("replication is a number from 1 to 512, not %q", v)
		}
	}
	if v := cmp.Or(cfg.Properties["block_size"], conf["dfs.blocksize"]); v != "" {
		if set.block, err = blockSize(v); err != nil {
			return set, err
		}
	}
	set.webhdfs = cfg.Properties["webhdfs"]
	return set, nil
}

// split takes an hdfs URI apart. Several hosts make it none that net/url knows.
func split(uri string) (authority, top string, err error) {
	rest, ok := strings.CutPrefix(uri, "hdfs://")
	authority, dir, _ := strings.Cut(rest, "/")
	if !ok || strings.ContainsAny(authority, "@?# ") || strings.ContainsAny(dir, "?#") {
		return "", "", invalid("%q is not hdfs://host:port,host:port/path or hdfs://nameservice/path (the user is a property; write ? and # as %%3F and %%23)", uri)
	}
	if dir, err = url.PathUnescape(dir); err != nil {
		return "", "", invalid("%q: %w", uri, err)
	}
	return authority, path.Clean("/" + dir), nil
}

// load reads a Hadoop configuration.
func load(dir string) (hadoopconf.HadoopConf, error) {
	if dir == "" {
		return nil, nil
	}
	conf, err := hadoopconf.Load(dir)
	if err != nil {
		return nil, invalid("property hadoop_conf: %w", err)
	}
	if conf == nil {
		return nil, invalid("property hadoop_conf: %s holds neither core-site.xml nor hdfs-site.xml", dir)
	}
	return conf, nil
}

// hosts returns the name nodes of an authority: those of a name service that conf knows,
// those of conf's default file system where it is empty, else those it lists.
func hosts(authority string, conf hadoopconf.HadoopConf) ([]string, error) {
	if authority == "" {
		rest, ok := strings.CutPrefix(conf["fs.defaultFS"], "hdfs://")
		if !ok {
			return nil, invalid("the URI names no name node: write hdfs://host:port/path, or give hadoop_conf a core-site.xml with fs.defaultFS")
		}
		authority, _, _ = strings.Cut(rest, "/")
	}
	if ids := conf["dfs.ha.namenodes."+authority]; ids != "" {
		var all []string
		for id := range strings.SplitSeq(ids, ",") {
			id = strings.TrimSpace(id)
			addr := conf["dfs.namenode.rpc-address."+authority+"."+id]
			if addr == "" {
				return nil, invalid("hadoop_conf has no dfs.namenode.rpc-address.%s.%s", authority, id)
			}
			all = append(all, addr)
		}
		return all, nil
	}
	var all []string
	for host := range strings.SplitSeq(authority, ",") {
		if host == "" {
			return nil, invalid("%q is no list of name nodes", authority)
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
		}
		if !slices.Contains(all, host) {
			all = append(all, host)
		}
	}
	return all, nil
}

// userName returns the user that HDFS is asked as.
func userName(name string) (string, error) {
	if name = cmp.Or(name, os.Getenv("HADOOP_USER_NAME")); name != "" {
		return name, nil
	}
	me, err := user.Current()
	if err != nil {
		return "", invalid("property user is not set, and who runs this process is not known: %w", err)
	}
	return me.Username, nil
}

// clientOptions are what the library is told, from a configuration where there is one.
func clientOptions(name, hostnames string, conf hadoopconf.HadoopConf) (hdfs.ClientOptions, error) {
	opts := hdfs.ClientOptionsFromConf(conf)
	if opts.KerberosClient != nil {
		return opts, &sluice.Error{Op: "open store", Kind: sluice.Unsupported,
			Err: fmt.Errorf("hadoop_conf asks for Kerberos, which this driver does not speak; use webhdfs:// with a delegation token")}
	}
	opts.User = name
	switch hostnames {
	case "":
	case "true", "false":
		opts.UseDatanodeHostname = hostnames == "true"
	default:
		return opts, invalid("property datanode_hostname is true or false, not %q", hostnames)
	}
	return opts, nil
}

// blockSize reads a number of bytes, with Hadoop's suffixes.
func blockSize(v string) (int64, error) {
	digits, shift := v, 0
	if n := len(v) - 1; n > 0 {
		if i := strings.IndexByte("kmgt", v[n]|0x20); i >= 0 {
			digits, shift = v[:n], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<40>>shift || n<<shift%512 != 0 {
		return 0, invalid("block_size is a number of bytes that is a multiple of 512, such as 134217728 or 128m, not %q", v)
	}
	return n << shift, nil
}
