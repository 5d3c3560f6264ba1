package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/sluicefs/sluice"
	"github.com/sluicefs/sluice/client"
)

// A file is read by anybody who has the address of a master.
func Example() {
	ctx := context.Background()
	fs, err := client.New(ctx, client.Config{Masters: client.Static("unix:/run/sluice/master.sock")})
	if err != nil {
		log.Fatal(err)
	}
	defer fs.Close(ctx)

	f, err := fs.Open(ctx, "/s3/logs/today", sluice.OpenOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(os.Stdout, sluice.NewReader(ctx, f, 0)); err != nil {
		log.Fatal(err)
	}
}

// A file appears whole when it is closed, or not at all.
func ExampleClient_Create() {
	ctx := context.Background()
	fs, err := client.New(ctx, client.Config{Masters: client.Static("master-1:19998", "master-2:19998")})
	if err != nil {
		log.Fatal(err)
	}
	defer fs.Close(ctx)

	w, err := fs.Create(ctx, "/s3/result.csv", sluice.CreateOptions{Write: sluice.CacheThrough, Parents: true})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Abort(ctx) // nothing is left of it if we do not come to Close
	for i := range 3 {
		if _, err := w.Write(ctx, fmt.Appendf(nil, "%d,%d\n", i, i*i)); err != nil {
			log.Fatal(err)
		}
	}
	info, err := w.Close(ctx)
	switch {
	case errors.Is(err, sluice.UnknownOutcome):
		log.Fatal("it may be there: look before writing it again")
	case err != nil:
		log.Fatal(err)
	}
	fmt.Println(info.Length, "bytes in the store")
}

// Parts of a file are read by many goroutines at once.
func ExampleClient_Open() {
	ctx := context.Background()
	fs, err := client.New(ctx, client.Config{Masters: client.Static("localhost:19998"), Token: os.Getenv("SLUICE_TOKEN")})
	if err != nil {
		log.Fatal(err)
	}
	defer fs.Close(ctx)

	f, err := fs.Open(ctx, "/s3/table.parquet", sluice.OpenOptions{Freshness: sluice.Every(time.Hour)})
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	footer := make([]byte, 64<<10)
	n, err := f.ReadAt(ctx, footer, max(0, f.Info().Length-int64(len(footer))))
	if err != nil && err != io.EOF {
		log.Fatal(err)
	}
	fmt.Println("footer of", n, "bytes")
}

// A directory of any size is listed in the order of names, page by page.
func ExampleClient_List() {
	ctx := context.Background()
	fs, err := client.New(ctx, client.Config{Masters: client.Static("localhost:19998")})
	if err != nil {
		log.Fatal(err)
	}
	defer fs.Close(ctx)

	for info, err := range fs.List(ctx, "/s3", sluice.ListOptions{Recursive: true}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(info.Path, info.Length)
	}
}

// A gateway acts for each of its users, if its token lets it.
func ExampleClient_As() {
	ctx := context.Background()
	fs, err := client.New(ctx, client.Config{Masters: client.Static("localhost:19998"), Token: os.Getenv("GATEWAY_TOKEN")})
	if err != nil {
		log.Fatal(err)
	}
	defer fs.Close(ctx)

	ann := fs.As(sluice.Principal{User: "ann", Groups: []string{"research"}})
	if _, err := ann.Stat(ctx, "/s3/private", sluice.StatOptions{}); errors.Is(err, sluice.Permission) {
		fmt.Println("ann may not look at it")
	}
}

// A directory is read into the cache before a job needs it.
func ExampleClient_Load() {
	ctx := context.Background()
	fs, err := client.New(ctx, client.Config{Masters: client.Static("localhost:19998")})
	if err != nil {
		log.Fatal(err)
	}
	defer fs.Close(ctx)

	err = fs.Load(ctx, "/s3/training", func(p sluice.LoadProgress) {
		fmt.Printf("%d of %d bytes\n", p.Bytes, p.Planned)
	})
	if err != nil {
		log.Fatal(err)
	}
}
