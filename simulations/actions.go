package simulations

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"chartmesh/agent/api"
	"chartmesh/storage"
)

// users are the people of the practice, and the other program whose files are imported.
type users struct {
	left    int                       // tries to come
	joinAt  int                       // one more device joins when so many are left
	forms   []form                    // read and not saved yet
	deleted map[string]string         // what a resource was before somebody deleted it
	outside map[string]map[string]any // the other program's records
	files   []map[string]string       // its exports, oldest first
}

// form is a resource as somebody read it, to be saved later.
type form struct {
	device *device
	ref    string
	shown  string // as read, with its version
	seen   []api.Conflict
}

func (w *World) scheduleUsers() {
	u := &w.users
	u.left, u.joinAt = w.cfg.Writes, w.cfg.Writes/4+w.rng.IntN(w.cfg.Writes/2+1)
	u.outside, u.deleted = map[string]map[string]any{}, map[string]string{}
	w.nextUser()
}

// nextUser has somebody do something after a while: often in a row, sometimes after a break.
func (w *World) nextUser() {
	pause := w.between(time.Millisecond, 400*time.Millisecond)
	if w.chance(6) {
		pause = w.between(time.Second, 15*time.Second)
	}
	w.after(pause, true, func() {
		w.users.left--
		if w.users.left == w.users.joinAt {
			w.newcomer()
		}
		if d := w.devices[w.rng.IntN(len(w.devices))]; d.replica != nil {
			w.act(d)
		}
		if w.users.left > 0 {
			w.nextUser()
		}
	})
}

// newcomer has a further device join, as soon as the one that admits is up.
func (w *World) newcomer() {
	a := w.admitter()
	if a.replica != nil && (!w.cfg.Removals || a.belongs(a)) && !a.unable() {
		a.busy = "admit a device"
		a.armed = nil
		if d := w.join(); d != nil {
			w.note("%s joins", d.name)
			for _, e := range w.net.ends(a) {
				e.session().LocalEntries(w.now)
			}
			w.net.pumpDevice(w, a)
			w.connectAll()
			return
		}
		return
	}
	w.after(time.Second, false, w.newcomer)
}

// act has one user do one thing.
func (w *World) act(d *device) {
	switch n := w.rng.IntN(100); {
	case n < 62:
		w.edit(d)
	case n < 68:
		w.openForm(d)
	case n < 76:
		w.saveForm()
	case n < 84:
		w.deleteAt(d)
	case n < 92:
		w.importAt(d)
	default:
		w.decide(d)
	}
}

// look reads a resource as a user sees it: empty if there is none.
func (d *device) look(ref string) (shown string, seen []api.Conflict) {
	r, err := api.ParseRef(ref)
	if err != nil {
		panic(err)
	}
	got, err := d.replica.Get(d.w.ctx, r, "")
	var e *api.Error
	switch {
	case errors.As(err, &e) && (e.Code == api.CodeNotFound || e.Code == api.CodeDeleted):
	case err != nil:
		d.w.fail("I-sound", "%s cannot read %s: %v", d.name, ref, err)
	default:
		shown = string(got.JSON)
	}
	return shown, d.conflictsOf(ref)
}

func (d *device) conflictsOf(ref string) (list []api.Conflict) {
	all, err := d.replica.Conflicts(d.w.ctx)
	if err != nil {
		d.w.fail("I-sound", "%s cannot list conflicts: %v", d.name, err)
	}
	for _, c := range all {
		if c.Resource == ref {
			list = append(list, c)
		}
	}
	return list
}

// edit has a user edit any resource.
func (w *World) edit(d *device) { w.editOf(d, w.anyRef()) }

// editOf reads a resource, changes something, and saves it at once; or creates it.
func (w *World) editOf(d *device, ref string) {
	shown, seen := d.look(ref)
	if was := w.users.deleted[ref]; shown == "" && was != "" && !w.chance(3) {
		w.put(d, ref, "", seen, w.change(was), false) // somebody has a copy, without a version
		return
	}
	if shown == "" {
		w.put(d, ref, "", seen, w.create(ref), false)
		return
	}
	w.put(d, ref, shown, seen, w.change(shown), w.chance(12))
}

// openForm reads a resource and leaves it open on the screen.
func (w *World) openForm(d *device) {
	ref := w.anyRef()
	if shown, seen := d.look(ref); shown != "" {
		w.users.forms = append(w.users.forms, form{d, ref, shown, seen})
	}
}

// saveForm saves what was read a while ago.
func (w *World) saveForm() {
	u := &w.users
	if len(u.forms) == 0 {
		return
	}
	i := w.rng.IntN(len(u.forms))
	f := u.forms[i]
	if w.chance(3) { // sometimes the same form is saved again later: even staler
		u.forms = slices.Delete(u.forms, i, i+1)
	}
	if f.device.replica != nil {
		w.put(f.device, f.ref, f.shown, f.seen, w.change(f.shown), false)
	}
}

// put saves content, which was made from shown.
func (w *World) put(d *device, ref, shown string, seen []api.Conflict, content map[string]any, force bool) {
	body := encode(content)
	i := &intent{kind: kindPut, content: map[string]string{ref: body}, base: map[string]string{ref: shown},
		seen: map[string][]api.Conflict{ref: seen}}
	if force { // it is set against what is there now
		i.base[ref], i.seen[ref] = d.look(ref)
	}
	w.write(d, i, fmt.Sprintf("put %s: %s", ref, newTokens(i, ref)), func() (string, error) {
		written, err := d.replica.Put(w.ctx, "user "+d.name, json.RawMessage(body), force)
		return written.Outcome, err
	})
}

func newTokens(i *intent, ref string) string {
	var list []string
	for _, t := range tokens(i.content[ref]) {
		if !strings.Contains(i.base[ref], t) {
			list = append(list, t)
		}
	}
	return strings.Join(list, " ")
}

func (w *World) deleteAt(d *device) {
	ref := w.anyRef()
	shown, seen := d.look(ref)
	if shown == "" {
		return
	}
	i := &intent{kind: kindDelete, content: map[string]string{ref: ""}, base: map[string]string{ref: shown},
		seen: map[string][]api.Conflict{ref: seen}}
	copied := decode(shown)
	delete(copied, "meta")
	w.users.deleted[ref] = encode(copied)
	w.write(d, i, "delete "+ref, func() (string, error) {
		r, _ := api.ParseRef(ref)
		written, err := d.replica.Delete(w.ctx, "user "+d.name, r)
		return written.Outcome, err
	})
}

// importAt imports a file of the other program: usually a new one, sometimes an old one once more.
func (w *World) importAt(d *device) {
	u := &w.users
	if len(u.files) == 0 || !w.chance(3) {
		file := map[string]string{}
		for range 1 + w.rng.IntN(4) {
			ref := w.anyRef()
			if was := u.outside[ref]; was == nil {
				u.outside[ref] = w.create(ref)
			} else if !w.chance(3) {
				u.outside[ref] = w.change(encode(was))
			}
			file[ref] = encode(u.outside[ref])
		}
		u.files = append(u.files, file)
	}
	n := len(u.files) - 1 - w.rng.IntN(min(len(u.files), 4))
	file := u.files[n]
	i := &intent{kind: kindImport, content: file, base: map[string]string{}, seen: map[string][]api.Conflict{}}
	var batch api.ImportBatch
	for _, ref := range slices.Sorted(maps.Keys(file)) {
		batch.Resources = append(batch.Resources, json.RawMessage(file[ref]))
	}
	w.write(d, i, fmt.Sprintf("import file %d: %v", n, slices.Sorted(maps.Keys(file))), func() (string, error) {
		r, err := d.replica.Import(w.ctx, "import "+d.name, batch)
		if err == nil && len(r.Refused) > 0 {
			return "", fmt.Errorf("refused: %v", r.Refused)
		}
		if r.Created+r.Changed == 0 {
			return "unchanged", err
		}
		return "changed", err
	})
}

// decide settles one of the open conflicts.
func (w *World) decide(d *device) {
	list, err := d.replica.Conflicts(w.ctx)
	if err != nil {
		w.fail("I-sound", "%s cannot list conflicts: %v", d.name, err)
		return
	}
	if len(list) == 0 {
		w.edit(d)
		return
	}
	c := list[w.rng.IntN(len(list))]
	side := w.rng.IntN(len(c.Values))
	shown, seen := d.look(c.Resource)
	i := &intent{kind: kindResolve, content: map[string]string{}, base: map[string]string{c.Resource: shown},
		seen: map[string][]api.Conflict{c.Resource: seen}, decided: &c, chosen: string(c.Values[side].Value)}
	w.write(d, i, fmt.Sprintf("decide %s %q for side %d of %d", c.Resource, c.Path, side, len(c.Values)), func() (string, error) {
		written, err := d.replica.Resolve(w.ctx, "user "+d.name, c.ID, api.Decision{Choose: &side})
		return written.Outcome, err
	})
}

// write carries out an intent and takes it down. What it became is read from the device's log, so that a write that
// became durable without being acknowledged is known too.
func (w *World) write(d *device, i *intent, what string, do func() (outcome string, err error)) {
	d.busy, d.pending = what, i
	outcome, err := do()
	d.generation++
	if !d.survived() {
		w.note("%s: %s: unknown", d.name, what)
		return // if it was durable, the restart finds it
	}
	var e *api.Error
	if err != nil {
		d.pending = nil
		expected := errors.As(err, &e) && slices.Contains([]api.Code{api.CodeConflict, api.CodeNotFound, api.CodeDeleted}, e.Code)
		if !expected && !errors.Is(err, errDisk) && !d.unable() {
			w.fail("I-sound", "%s cannot %s: %v", d.name, what, err)
		}
		w.note("%s: %s: %v", d.name, what, err)
		return
	}
	added, chunks := w.ledger.read(d, i)
	w.note("%s: %s: %s", d.name, what, outcome)
	if outcome == "repeated" && !w.ledger.wrote(d, i) {
		w.fail("I-acknowledged", "%s answered that %s repeats what nobody wrote", d.name, what)
	}
	if (chunks > 0) != (outcome != "unchanged" && outcome != "repeated") {
		w.fail("I-acknowledged", "%s answered %q to %s, and %d chunks were written", d.name, outcome, what, chunks)
	}
	for _, entry := range added {
		entry.acked = true
	}
	w.count(i)
	for _, e := range w.net.ends(d) {
		e.session().LocalChunks(w.now)
	}
	w.net.pumpDevice(w, d)
}

func (w *World) count(i *intent) {
	switch i.kind {
	case kindImport:
		w.report.Imports++
	case kindResolve:
		w.report.Decisions++
	default:
		w.report.Writes++
	}
}

// fault has something go wrong.
func (w *World) fault() {
	d := w.devices[w.rng.IntN(len(w.devices))]
	l := w.net.links[w.rng.IntN(len(w.net.links))]
	switch n := w.rng.IntN(100); {
	case n < 25:
		w.partition(2 + w.rng.IntN(2))
	case n < 40:
		w.note("partitions heal")
		w.partition(1)
	case n < 50:
		l.cut = !l.cut
		w.note("link %s-%s cut: %v", l.ends[0].called(), l.ends[1].called(), l.cut)
	case n < 60:
		w.note("link %s-%s drops", l.ends[0].called(), l.ends[1].called())
		w.drop(l)
	case n < 65:
		if d.replica != nil {
			d.slow = w.pace()
		}
	case n < 72:
		if d.replica != nil {
			w.note("%s: power cut between two commits", d.name)
			d.fall()
		}
	case n < 81 && w.cfg.Removals:
	case n < 76:
		d.keep()
	case n < 80:
		w.goBack(d, w.chance(2))
	case n < 81:
		w.double(d, w.chance(2))
	default:
		stages := []storage.Stage{storage.Begin, storage.Applied, storage.Synced}
		d.armed = &fault{stage: stages[w.rng.IntN(3)], commits: w.rng.IntN(4), crash: w.chance(2)}
	}
}

// partition puts each device in one of some groups.
func (w *World) partition(groups int) {
	names := make([]string, groups)
	for _, d := range w.devices {
		g := w.rng.IntN(groups)
		w.net.group[d] = g
		names[g] += d.name
	}
	if w.anchor != nil {
		g := w.rng.IntN(groups)
		w.net.group[w.anchor] = g
		names[g] += "+anchor"
	}
	if groups > 1 {
		w.report.Partitions++
		w.note("partition: %v", names)
	}
	w.relink()
}
