package shell

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice"
)

// copyBuffer is what a sequential copy reads at once, in bytes.
const copyBuffer = 1 << 20

// open opens p and returns a reader from byte off of it.
func open(ctx context.Context, sys System, p sluice.Path, read sluice.ReadType) (sluice.Handle, error) {
	return sys.Open(ctx, p, sluice.OpenOptions{Read: read})
}

// stream copies [off, end of file) of p to w.
func stream(ctx context.Context, sys System, p sluice.Path, off int64, read sluice.ReadType, w io.Writer) error {
	h, err := open(ctx, sys, p, read)
	if err != nil {
		return err
	}
	defer h.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, sluice.NewReader(ctx, h, off), make([]byte, copyBuffer))
	return err
}

// readFlag adds --no-cache.
func readFlag(cmd *cobra.Command, read *sluice.ReadType) {
	cmd.Flags().BoolFunc("no-cache", "keep nothing that has to be fetched in the cache", func(string) error {
		*read = sluice.NoCache
		return nil
	})
}

func (c *command) cat() *cobra.Command {
	var read sluice.ReadType
	cmd := &cobra.Command{
		Use: "cat PATH...", Short: "Print files", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error { return stream(ctx, sys, p, 0, read, c.Out) })
		}),
	}
	readFlag(cmd, &read)
	return cmd
}

func (c *command) head() *cobra.Command {
	var lines, size int64
	cmd := &cobra.Command{
		Use: "head PATH", Short: "Print the beginning of a file", Args: args(1, 1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error {
				h, err := open(ctx, sys, p, sluice.Cache)
				if err != nil {
					return err
				}
				defer h.Close()
				r := sluice.NewReader(ctx, h, 0)
				if size >= 0 {
					_, err = io.CopyN(c.Out, r, size)
					return ignoreEOF(err)
				}
				return firstLines(c.Out, r, lines)
			})
		}),
	}
	cmd.Flags().Int64VarP(&lines, "lines", "n", 10, "so many lines")
	cmd.Flags().Int64VarP(&size, "bytes", "c", -1, "so many bytes instead")
	return cmd
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// firstLines copies n lines.
func firstLines(w io.Writer, r io.Reader, n int64) error {
	buf := make([]byte, 64<<10)
	for n > 0 {
		got, err := r.Read(buf)
		part := buf[:got]
		for i := 0; n > 0 && i < len(part); {
			j := bytes.IndexByte(part[i:], '\n')
			if j < 0 {
				break
			}
			i += j + 1
			if n--; n == 0 {
				part = part[:i]
			}
		}
		if _, werr := w.Write(part); werr != nil {
			return werr
		}
		if err != nil {
			return ignoreEOF(err)
		}
	}
	return nil
}

func (c *command) tail() *cobra.Command {
	var lines, size int64
	cmd := &cobra.Command{
		Use: "tail PATH", Short: "Print the end of a file", Args: args(1, 1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error {
				h, err := open(ctx, sys, p, sluice.Cache)
				if err != nil {
					return err
				}
				defer h.Close()
				off := max(0, h.Info().Length-size)
				if size < 0 {
					if off, err = lastLines(ctx, h, lines); err != nil {
						return err
					}
				}
				_, err = io.CopyBuffer(c.Out, sluice.NewReader(ctx, h, off), make([]byte, copyBuffer))
				return err
			})
		}),
	}
	cmd.Flags().Int64VarP(&lines, "lines", "n", 10, "so many lines")
	cmd.Flags().Int64VarP(&size, "bytes", "c", -1, "so many bytes instead")
	return cmd
}

// lastLines returns the offset at which the last n lines begin, reading backwards.
func lastLines(ctx context.Context, h sluice.Handle, n int64) (int64, error) {
	end := h.Info().Length
	if n <= 0 {
		return end, nil
	}
	buf := make([]byte, 64<<10)
	for at := end; at > 0; {
		part := buf[:min(int64(len(buf)), at)]
		at -= int64(len(part))
		if _, err := h.ReadAt(ctx, part, at); err != nil && err != io.EOF {
			return 0, err
		}
		for i := len(part) - 1; i >= 0; i-- {
			if part[i] != '\n' || at+int64(i) == end-1 {
				continue
			}
			if n--; n == 0 {
				return at + int64(i) + 1, nil
			}
		}
	}
	return 0, nil
}

// digest makes the hash called name.
func digest(name string) (hash.Hash, error) {
	switch name {
	case "sha256":
		return sha256.New(), nil
	case "md5":
		return md5.New(), nil
	case "crc32c":
		return crc32.New(crc32.MakeTable(crc32.Castagnoli)), nil
	}
	return nil, &Usage{fmt.Errorf("--algorithm is sha256, md5 or crc32c, not %q", name)}
}

func (c *command) checksum() *cobra.Command {
	var algorithm string
	cmd := &cobra.Command{
		Use: "checksum PATH...", Short: "Print checksums of files, as sha256sum does", Args: args(1, -1),
		RunE: c.run(func(ctx context.Context, sys System, names []string) error {
			return c.each(ctx, names, func(p sluice.Path) error {
				sum, err := digest(algorithm)
				if err != nil {
					return err
				}
				if err := stream(ctx, sys, p, 0, sluice.Cache, sum); err != nil {
					return err
				}
				text := hex.EncodeToString(sum.Sum(nil))
				if c.json {
					return c.emit(map[string]string{"path": string(p), "algorithm": algorithm, "checksum": text})
				}
				_, err = fmt.Fprintf(c.Out, "%s  %s\n", text, p)
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&algorithm, "algorithm", "sha256", "sha256, md5 or crc32c")
	return cmd
}
