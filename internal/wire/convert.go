package wire

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/sluicefs/sluice"
)

// FromTime returns Unix nanoseconds, 0 for the zero time.
func FromTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// Time is the inverse of [FromTime], in UTC.
func Time(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// FromError returns err for the wire, nil for nil. Of the cause only its text travels.
func FromError(err error) *Error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*sluice.Error](err)
	if !ok {
		return &Error{Kind: uint32(sluice.KindOf(err)), Text: err.Error()}
	}
	w := &Error{Op: e.Op, Path: string(e.Path), Kind: uint32(e.Kind), Primary: e.Primary}
	if e.Err != nil {
		w.Text = e.Err.Error()
	}
	return w
}

// Sluice returns the error as a *sluice.Error, nil for nil.
func (x *Error) Sluice() error {
	if x == nil {
		return nil
	}
	e := &sluice.Error{Op: x.Op, Path: sluice.Path(x.Path), Kind: sluice.Kind(x.Kind), Primary: x.Primary}
	if x.Text != "" {
		e.Err = errors.New(x.Text)
	}
	return e
}

// FromPrincipal returns p for the wire.
func FromPrincipal(p sluice.Principal) *Principal {
	return &Principal{User: p.User, Groups: p.Groups, Super: p.Super}
}

// Sluice returns the principal; that of a nil message is nobody.
func (x *Principal) Sluice() sluice.Principal {
	return sluice.Principal{User: x.GetUser(), Groups: x.GetGroups(), Super: x.GetSuper()}
}

// FromRequestID returns r for the wire, nil for the zero id.
func FromRequestID(r sluice.RequestID) *RequestID {
	if r == (sluice.RequestID{}) {
		return nil
	}
	return &RequestID{Session: uint64(r.Session), Seq: r.Seq, Lowest: r.Lowest}
}

// Sluice returns the id, zero for nil.
func (x *RequestID) Sluice() sluice.RequestID {
	return sluice.RequestID{Session: sluice.SessionID(x.GetSession()), Seq: x.GetSeq(), Lowest: x.GetLowest()}
}

// FromContentID returns c for the wire, nil for the zero id.
func FromContentID(c sluice.ContentID) *ContentID {
	if c.IsZero() {
		return nil
	}
	return &ContentID{Incarnation: uint64(c.Incarnation), Counter: c.Counter}
}

// Sluice returns the id, zero for nil.
func (x *ContentID) Sluice() sluice.ContentID {
	return sluice.ContentID{Incarnation: sluice.Incarnation(x.GetIncarnation()), Counter: x.GetCounter()}
}

// FromBlockID returns b for the wire.
func FromBlockID(b sluice.BlockID) *BlockID {
	return &BlockID{Content: FromContentID(b.Content), Index: b.Index}
}

// Sluice returns the id.
func (x *BlockID) Sluice() sluice.BlockID {
	return sluice.BlockID{Content: x.GetContent().Sluice(), Index: x.GetIndex()}
}

// FromExtent returns e for the wire.
func FromExtent(e sluice.Extent) *Extent {
	return &Extent{Content: FromContentID(e.Content), First: e.First, Count: e.Count, BlockSize: e.BlockSize}
}

// Sluice returns the extent.
func (x *Extent) Sluice() sluice.Extent {
	return sluice.Extent{Content: x.GetContent().Sluice(), First: x.GetFirst(), Count: x.GetCount(), BlockSize: x.GetBlockSize()}
}

// FromHolder returns h for the wire.
func FromHolder(h sluice.Holder) *Holder {
	return &Holder{Content: FromContentID(h.Content), Worker: uint64(h.Worker), First: h.First, Count: h.Count}
}

// Sluice returns the holder.
func (x *Holder) Sluice() sluice.Holder {
	return sluice.Holder{Content: x.GetContent().Sluice(), Worker: sluice.WorkerID(x.GetWorker()), First: x.GetFirst(), Count: x.GetCount()}
}

// Map returns f of each element, nil for none.
func Map[A, B any](in []A, f func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = f(a)
	}
	return out
}

// FromFileInfo returns f for the wire.
func FromFileInfo(f sluice.FileInfo) *FileInfo {
	return &FileInfo{
		Path: string(f.Path), Id: uint64(f.ID), Type: uint32(f.Type), Length: f.Length, Mode: uint32(f.Mode),
		Owner: f.Owner, Group: f.Group, Mtime: FromTime(f.Mtime), Ctime: FromTime(f.Ctime), Atime: FromTime(f.Atime),
		Links: f.Links, Complete: f.Complete, Persistence: uint32(f.Persistence), Extents: Map(f.Extents, FromExtent),
		Target: f.Target, Pinned: f.Pinned, Ttl: int64(f.TTL), TtlAction: uint32(f.TTLAction), Xattrs: f.XAttrs,
		Mount: uint64(f.Mount), Key: f.Key, Store: string(f.Store), StoreAt: FromTime(f.StoreAt), Local: f.Local, IsMount: f.IsMount,
	}
}

// Sluice returns the attributes.
func (x *FileInfo) Sluice() sluice.FileInfo {
	if x == nil {
		return sluice.FileInfo{}
	}
	return sluice.FileInfo{
		Path: sluice.Path(x.Path), ID: sluice.FileID(x.Id), Type: sluice.Type(x.Type), Length: x.Length, Mode: sluice.Mode(x.Mode),
		Owner: x.Owner, Group: x.Group, Mtime: Time(x.Mtime), Ctime: Time(x.Ctime), Atime: Time(x.Atime),
		Links: x.Links, Complete: x.Complete, Persistence: sluice.Persistence(x.Persistence), Extents: Map(x.Extents, (*Extent).Sluice),
		Target: x.Target, Pinned: x.Pinned, TTL: time.Duration(x.Ttl), TTLAction: sluice.TTLAction(x.TtlAction), XAttrs: x.Xattrs,
		Mount: sluice.MountID(x.Mount), Key: x.Key, Store: sluice.Version(x.Store), StoreAt: Time(x.StoreAt), Local: x.Local, IsMount: x.IsMount,
	}
}

// FromFreshness returns f for the wire, nil for the default.
func FromFreshness(f sluice.Freshness) *Freshness {
	if !f.Set {
		return nil
	}
	return &Freshness{Set: true, Never: f.Never, Every: int64(f.Every)}
}

// Sluice returns the freshness.
func (x *Freshness) Sluice() sluice.Freshness {
	return sluice.Freshness{Set: x.GetSet(), Never: x.GetNever(), Every: time.Duration(x.GetEvery())}
}

// FromMountOptions returns o for the wire.
func FromMountOptions(o sluice.MountOptions) *MountOptions {
	return &MountOptions{
		ReadOnly: o.ReadOnly, Freshness: FromFreshness(o.Freshness), WriteType: uint32(o.WriteType), BlockSize: o.BlockSize,
		Owner: o.Owner, Group: o.Group, FileMode: uint32(o.FileMode), DirMode: uint32(o.DirMode), Markers: o.Markers,
		Direct: o.Direct, Shared: o.Shared, Timeout: int64(o.Timeout), Concurrent: int64(o.Concurrent), Bandwidth: o.Bandwidth,
		Settle: int64(o.Settle), Properties: o.Properties,
	}
}

// Sluice returns the options.
func (x *MountOptions) Sluice() sluice.MountOptions {
	if x == nil {
		return sluice.MountOptions{}
	}
	return sluice.MountOptions{
		ReadOnly: x.ReadOnly, Freshness: x.Freshness.Sluice(), WriteType: sluice.WriteType(x.WriteType), BlockSize: x.BlockSize,
		Owner: x.Owner, Group: x.Group, FileMode: sluice.Mode(x.FileMode), DirMode: sluice.Mode(x.DirMode), Markers: x.Markers,
		Direct: x.Direct, Shared: x.Shared, Timeout: time.Duration(x.Timeout), Concurrent: int(x.Concurrent), Bandwidth: x.Bandwidth,
		Settle: time.Duration(x.Settle), Properties: x.Properties,
	}
}

// FromMount returns m for the wire.
func FromMount(m sluice.Mount) *Mount {
	return &Mount{Id: uint64(m.ID), Path: string(m.Path), Uri: m.URI, Options: FromMountOptions(m.Options)}
}

// Sluice returns the mount.
func (x *Mount) Sluice() sluice.Mount {
	return sluice.Mount{ID: sluice.MountID(x.GetId()), Path: sluice.Path(x.GetPath()), URI: x.GetUri(), Options: x.GetOptions().Sluice()}
}

// FromHealth returns h for the wire.
func FromHealth(h sluice.Health) *Health {
	return &Health{
		Ok: h.OK, Message: h.Message, Since: FromTime(h.Since), Breaker: h.Breaker, InFlight: int64(h.InFlight), Checked: h.Checked,
		Skipped: h.Skipped, Intents: int64(h.Intents), Errors: h.Errors, Calls: h.Calls, BytesRead: h.BytesRead, BytesSent: h.BytesSent,
	}
}

// Sluice returns the health.
func (x *Health) Sluice() sluice.Health {
	if x == nil {
		return sluice.Health{}
	}
	return sluice.Health{
		OK: x.Ok, Message: x.Message, Since: Time(x.Since), Breaker: x.Breaker, InFlight: int(x.InFlight), Checked: x.Checked,
		Skipped: x.Skipped, Intents: int(x.Intents), Errors: x.Errors, Calls: x.Calls, BytesRead: x.BytesRead, BytesSent: x.BytesSent,
	}
}

// FromMountInfo returns m for the wire.
func FromMountInfo(m sluice.MountInfo) *MountInfo {
	return &MountInfo{Mount: FromMount(m.Mount), Health: FromHealth(m.Health)}
}

// Sluice returns the mount with its health.
func (x *MountInfo) Sluice() sluice.MountInfo {
	return sluice.MountInfo{Mount: x.GetMount().Sluice(), Health: x.GetHealth().Sluice()}
}

// FromAttrChange returns c for the wire.
func FromAttrChange(c sluice.AttrChange) *AttrChange {
	x := &AttrChange{Owner: c.Owner, Group: c.Group, Pinned: c.Pinned, XattrMode: uint32(c.XAttrMode)}
	if c.Mode != nil {
		x.Mode = new(uint32(*c.Mode))
	}
	if c.Mtime != nil {
		x.Mtime = new(FromTime(*c.Mtime))
	}
	if c.Atime != nil {
		x.Atime = new(FromTime(*c.Atime))
	}
	if c.TTL != nil {
		x.Ttl = new(int64(*c.TTL))
	}
	if c.TTLAction != nil {
		x.TtlAction = new(uint32(*c.TTLAction))
	}
	for name, value := range c.XAttrs {
		if value == nil {
			x.RemoveXattrs = append(x.RemoveXattrs, name)
			continue
		}
		if x.Xattrs == nil {
			x.Xattrs = map[string][]byte{}
		}
		x.Xattrs[name] = value
	}
	slices.Sort(x.RemoveXattrs)
	return x
}

// Sluice returns the change.
func (x *AttrChange) Sluice() sluice.AttrChange {
	if x == nil {
		return sluice.AttrChange{}
	}
	c := sluice.AttrChange{Owner: x.Owner, Group: x.Group, Pinned: x.Pinned, XAttrMode: sluice.XAttrMode(x.XattrMode)}
	if x.Mode != nil {
		c.Mode = new(sluice.Mode(*x.Mode))
	}
	if x.Mtime != nil {
		c.Mtime = new(Time(*x.Mtime))
	}
	if x.Atime != nil {
		c.Atime = new(Time(*x.Atime))
	}
	if x.Ttl != nil {
		c.TTL = new(time.Duration(*x.Ttl))
	}
	if x.TtlAction != nil {
		c.TTLAction = new(sluice.TTLAction(*x.TtlAction))
	}
	if len(x.Xattrs)+len(x.RemoveXattrs) > 0 {
		c.XAttrs = make(map[string][]byte, len(x.Xattrs)+len(x.RemoveXattrs))
		for name, value := range x.Xattrs {
			if value == nil {
				value = []byte{}
			}
			c.XAttrs[name] = value
		}
		for _, name := range x.RemoveXattrs {
			c.XAttrs[name] = nil
		}
	}
	return c
}

// FromCreateOptions returns o for the wire.
func FromCreateOptions(o sluice.CreateOptions) *CreateOptions {
	return &CreateOptions{
		Exclusive: o.Exclusive, Parents: o.Parents, Mode: uint32(o.Mode), Write: uint32(o.Write), BlockSize: o.BlockSize,
		Base: FromContentID(o.Base), Ttl: int64(o.TTL), TtlAction: uint32(o.TTLAction), Pinned: o.Pinned, Empty: o.Empty,
	}
}

// Sluice returns the options.
func (x *CreateOptions) Sluice() sluice.CreateOptions {
	if x == nil {
		return sluice.CreateOptions{}
	}
	return sluice.CreateOptions{
		Exclusive: x.Exclusive, Parents: x.Parents, Mode: sluice.Mode(x.Mode), Write: sluice.WriteType(x.Write), BlockSize: x.BlockSize,
		Base: x.Base.Sluice(), TTL: time.Duration(x.Ttl), TTLAction: sluice.TTLAction(x.TtlAction), Pinned: x.Pinned, Empty: x.Empty,
	}
}

// FromPrepared returns p for the wire.
func FromPrepared(p sluice.Prepared) *Prepared {
	return &Prepared{Inline: p.Inline, Upload: p.Upload, Parts: p.Parts, Tag: p.Tag}
}

// Sluice returns the prepared upload.
func (x *Prepared) Sluice() sluice.Prepared {
	return sluice.Prepared{Inline: x.GetInline(), Upload: x.GetUpload(), Parts: x.GetParts(), Tag: x.GetTag()}
}

// FromSealed returns s for the wire.
func FromSealed(s sluice.Sealed) *Sealed {
	return &Sealed{
		Content: FromContentID(s.Content), Length: s.Length, Checksum: s.Checksum, Holders: Map(s.Holders, FromHolder),
		Worker: uint64(s.Worker), Prepared: FromPrepared(s.Prepared),
	}
}

// Sluice returns the sealed content.
func (x *Sealed) Sluice() sluice.Sealed {
	if x == nil {
		return sluice.Sealed{}
	}
	return sluice.Sealed{
		Content: x.Content.Sluice(), Length: x.Length, Checksum: x.Checksum, Holders: Map(x.Holders, (*Holder).Sluice),
		Worker: sluice.WorkerID(x.Worker), Prepared: x.Prepared.Sluice(),
	}
}

// FromTier returns t for the wire.
func FromTier(t sluice.TierInfo) *TierInfo {
	return &TierInfo{Name: t.Name, Quota: t.Quota, Used: t.Used, Held: t.Held, Free: t.Free, Blocks: t.Blocks, Directories: t.Directories, Note: t.Note}
}

// Sluice returns the tier.
func (x *TierInfo) Sluice() sluice.TierInfo {
	return sluice.TierInfo{Name: x.Name, Quota: x.Quota, Used: x.Used, Held: x.Held, Free: x.Free, Blocks: x.Blocks, Directories: x.Directories, Note: x.Note}
}

// FromWorkerInfo returns w for the wire.
func FromWorkerInfo(w sluice.WorkerInfo) *WorkerInfo {
	return &WorkerInfo{
		Id: uint64(w.ID), Host: w.Host, Address: w.Address, Socket: w.Socket, Weight: w.Weight,
		Labels: maps.Clone(w.Labels), Tiers: Map(w.Tiers, FromTier), Seen: FromTime(w.Seen),
	}
}

// Sluice returns the worker.
func (x *WorkerInfo) Sluice() sluice.WorkerInfo {
	if x == nil {
		return sluice.WorkerInfo{}
	}
	return sluice.WorkerInfo{
		ID: sluice.WorkerID(x.Id), Host: x.Host, Address: x.Address, Socket: x.Socket, Weight: x.Weight,
		Labels: x.Labels, Tiers: Map(x.Tiers, (*TierInfo).Sluice), Seen: Time(x.Seen),
	}
}

// FromWorkerReport returns r for the wire.
func FromWorkerReport(r sluice.WorkerReport) *WorkerReport {
	return &WorkerReport{
		Info: FromWorkerInfo(r.WorkerInfo), Live: r.Live, Unpersisted: r.Unpersisted, Pinned: r.Pinned,
		HitBytes: r.HitBytes, MissBytes: r.MissBytes, Evicted: r.Evicted, Corrupt: r.Corrupt,
	}
}

// Sluice returns the report.
func (x *WorkerReport) Sluice() sluice.WorkerReport {
	return sluice.WorkerReport{
		WorkerInfo: x.GetInfo().Sluice(), Live: x.GetLive(), Unpersisted: x.GetUnpersisted(), Pinned: x.GetPinned(),
		HitBytes: x.GetHitBytes(), MissBytes: x.GetMissBytes(), Evicted: x.GetEvicted(), Corrupt: x.GetCorrupt(),
	}
}

// FromView returns v for the wire, nil for nil.
func FromView(v *sluice.View) *View {
	if v == nil {
		return nil
	}
	return &View{Version: v.Version, Workers: Map(v.Workers, FromWorkerInfo)}
}

// Sluice returns the view, nil for nil.
func (x *View) Sluice() *sluice.View {
	if x == nil {
		return nil
	}
	return &sluice.View{Version: x.Version, Workers: Map(x.Workers, (*WorkerInfo).Sluice)}
}

// FromReport returns r for the wire.
func FromReport(r sluice.Report) *Report {
	return &Report{
		Cluster: r.Cluster, Version: r.Version, Incarnation: uint64(r.Incarnation), Files: r.Files, Warnings: r.Warnings,
		Masters: Map(r.Masters, fromMaster), Workers: Map(r.Workers, FromWorkerReport), Mounts: Map(r.Mounts, FromMountInfo),
	}
}

// Sluice returns the report.
func (x *Report) Sluice() sluice.Report {
	if x == nil {
		return sluice.Report{}
	}
	return sluice.Report{
		Cluster: x.Cluster, Version: x.Version, Incarnation: sluice.Incarnation(x.Incarnation), Files: x.Files, Warnings: x.Warnings,
		Masters: Map(x.Masters, (*MasterInfo).sluice), Workers: Map(x.Workers, (*WorkerReport).Sluice), Mounts: Map(x.Mounts, (*MountInfo).Sluice),
	}
}

func fromMaster(m sluice.MasterInfo) *MasterInfo {
	return &MasterInfo{
		Name: m.Name, Address: m.Address, Primary: m.Primary, Applied: uint64(m.Applied), Term: uint64(m.Term),
		Sessions: int64(m.Sessions), Uptime: m.Uptime, Resident: m.Resident,
	}
}

func (x *MasterInfo) sluice() sluice.MasterInfo {
	return sluice.MasterInfo{
		Name: x.Name, Address: x.Address, Primary: x.Primary, Applied: sluice.Index(x.Applied), Term: sluice.Term(x.Term),
		Sessions: int(x.Sessions), Uptime: x.Uptime, Resident: x.Resident,
	}
}

// FromIntentInfo returns i for the wire.
func FromIntentInfo(i sluice.IntentInfo) *IntentInfo {
	return &IntentInfo{
		Id: i.ID, Mount: uint64(i.Mount), Op: i.Op, Path: string(i.Path), To: string(i.To), Age: i.Age,
		State: i.State, Message: i.Message, Attempts: int64(i.Attempts),
	}
}

// Sluice returns the intent.
func (x *IntentInfo) Sluice() sluice.IntentInfo {
	return sluice.IntentInfo{
		ID: x.Id, Mount: sluice.MountID(x.Mount), Op: x.Op, Path: sluice.Path(x.Path), To: sluice.Path(x.To), Age: x.Age,
		State: x.State, Message: x.Message, Attempts: int(x.Attempts),
	}
}
