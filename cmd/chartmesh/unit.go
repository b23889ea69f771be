package main

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// unit is an agent as the system's service manager runs it.
type unit struct {
	program string
	args    []string
	account string // the user that it runs as; empty: whoever's service it is
	system  bool   // of the machine, else of one user
	logs    string // a file for stdout and stderr, where the manager keeps no log of its own
}

const unitDescription = "chartmesh keeps a practice's patient records the same on all its devices"

// final are the exit codes after which starting again would change nothing: no practice in the folder, forbidden, damaged,
// written by a newer version. A crash has the code 2, so that a wrong command line is tried again too.
const final = "3 8 10 11"

// systemd returns the unit's file. Kill mode and stop signal are systemd's own: on a crash it ends what is left of the
// group by a signal that the crash monitor outlives for as long as its report takes.
func (u unit) systemd() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("[Unit]")
	line("Description=%s", unitDescription)
	if u.system {
		line("Wants=network-online.target")
		line("After=network-online.target")
	}
	line("StartLimitIntervalSec=0")
	line("")
	line("[Service]")
	command := []string{systemdWord(u.program)} // of the program's path no variable is replaced
	for _, a := range u.args {
		command = append(command, strings.ReplaceAll(systemdWord(a), "$", "$$"))
	}
	line("ExecStart=%s", strings.Join(command, " "))
	if u.account != "" {
		line("User=%s", strings.ReplaceAll(u.account, "%", "%%"))
	}
	line("UMask=0077")
	line("LimitCORE=0") // memory holds keys and plain text
	line("LimitNOFILE=65536")
	line("NoNewPrivileges=yes")
	if u.system {
		line("ProtectSystem=full")
	}
	line("OOMPolicy=continue") // the engine may be killed, and is started again
	line("Restart=on-failure")
	line("RestartSec=5")
	line("RestartPreventExitStatus=%s", final)
	line("TimeoutStopSec=30")
	line("")
	line("[Install]")
	if u.system {
		line("WantedBy=multi-user.target")
	} else {
		line("WantedBy=default.target")
	}
	return b.String()
}

// systemdWord quotes a word of a command line.
func systemdWord(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}

// systemdRefuses are what systemd takes in no program's path, however quoted.
const systemdRefuses = `"'\`

// launchd returns the property list.
func (u unit) launchd(name string) string {
	var b strings.Builder
	text := func(s string) string {
		var e strings.Builder
		_ = xml.EscapeText(&e, []byte(s)) // a Builder takes everything
		return e.String()
	}
	b.WriteString(xml.Header + `<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
`)
	key := func(name, value string) { fmt.Fprintf(&b, "\t<key>%s</key>\n\t%s\n", name, value) }
	str := func(s string) string { return "<string>" + text(s) + "</string>" }
	key("Label", str(name))
	var args strings.Builder
	for _, a := range append([]string{u.program}, u.args...) {
		args.WriteString("\t\t" + str(a) + "\n")
	}
	key("ProgramArguments", "<array>\n"+args.String()+"\t</array>")
	if u.account != "" {
		key("UserName", str(u.account))
	}
	key("RunAtLoad", "<true/>")
	key("KeepAlive", "<dict><key>SuccessfulExit</key><false/></dict>")
	key("ThrottleInterval", "<integer>10</integer>")
	key("Umask", "<integer>63</integer>") // 0077
	key("HardResourceLimits", "<dict><key>Core</key><integer>0</integer></dict>")
	key("SoftResourceLimits", "<dict><key>Core</key><integer>0</integer><key>NumberOfFiles</key><integer>65536</integer></dict>")
	if u.logs != "" {
		key("StandardOutPath", str(u.logs))
		key("StandardErrorPath", str(u.logs))
	}
	b.WriteString("</dict>\n</plist>\n")
	return b.String()
}
