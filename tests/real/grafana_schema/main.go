// Holds dashboards to Grafana's own types, which it decodes strictly: a field that is missing, unknown or of another
// type is an error, in a panel's options too.
package main

import (
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	wrong := false
	for _, path := range os.Args[1:] {
		if problems := check(path); problems != "" {
			fmt.Printf("%s:\n%s\n", path, problems)
			wrong = true
		}
	}
	if wrong {
		os.Exit(1)
	}
}

func check(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	var read dashboard.Dashboard
	// An error that holds no problem is what the SDK returns for none.
	if err := read.UnmarshalJSONStrict(text); err.Error() != "" {
		return err.Error()
	}
	if err := read.Validate(); err != nil {
		return err.Error()
	}
	return ""
}
