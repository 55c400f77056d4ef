package assay_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The shape that a package keeps, so that it can be read from top to bottom: see
// docs/design/README.md.
const (
	mostMethods    = 25  // of a type; a function that takes it as its first argument is one, too
	mostFields     = 12  // of a struct
	mostParameters = 6   // of a function
	mostLines      = 500 // of a file
)

// folder is a package as its files show it. Only what the package itself defines is
// resolved: other packages are not read.
type folder struct {
	path  string
	fset  *token.FileSet
	files map[string]*ast.File // by name
	info  *types.Info
	pkg   *types.Package
}

// readFolders reads every package that is not for tests alone.
func readFolders(t *testing.T) []*folder {
	t.Helper()
	byPath := map[string]*folder{}
	goFiles(t, func(dir, name string) {
		f := byPath[dir]
		if f == nil {
			f = &folder{path: dir, fset: token.NewFileSet(), files: map[string]*ast.File{}}
			byPath[dir] = f
		}
		file, err := parser.ParseFile(f.fset, name, nil, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			t.Error(err)
			return
		}
		f.files[filepath.Base(name)] = file
	})
	folders := slices.SortedFunc(maps.Values(byPath), func(a, b *folder) int { return cmp.Compare(a.path, b.path) })
	for _, f := range folders {
		f.resolve()
	}
	return folders
}

// resolve finds out which definition each name of the package stands for.
func (f *folder) resolve() {
	f.info = &types.Info{Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
	config := types.Config{
		Importer: emptyImporter{}, FakeImportC: true,
		Error: func(error) {}, // what comes from other packages is unknown
	}
	// In one order, those of this system first: files for several may define the same.
	var files, others []*ast.File
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		if ok, err := build.Default.MatchFile(f.path, name); err == nil && ok {
			files = append(files, f.files[name])
		} else {
			others = append(others, f.files[name])
		}
	}
	files = append(files, others...)
	f.pkg, _ = config.Check(f.path, f.fset, files, f.info)
}

// emptyImporter has packages in which nothing is defined.
type emptyImporter struct{}

func (emptyImporter) Import(importPath string) (*types.Package, error) {
	pkg := types.NewPackage(importPath, path.Base(importPath))
	pkg.MarkComplete()
	return pkg, nil
}

// own returns the type of the package that t is or points to, nil if it is none.
func (f *folder) own(t types.Type) *types.TypeName {
	if pointer, ok := t.(*types.Pointer); ok {
		t = pointer.Elem()
	}
	if named, ok := t.(*types.Named); ok && named.Obj().Pkg() == f.pkg {
		return named.Obj()
	}
	return nil
}

// functions calls visit for each function with a body or without.
func (f *folder) functions(visit func(decl *ast.FuncDecl, signature *types.Signature)) {
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		for _, decl := range f.files[name].Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok {
				if object, ok := f.info.Defs[fn.Name].(*types.Func); ok {
					visit(fn, object.Type().(*types.Signature))
				}
			}
		}
	}
}

// shape is what is measured of a package.
type shape struct {
	methods, fields map[string]int // by type
	parameters      map[string]int // by function
	lines           map[string]int // by file
	functionLines   []int          // sorted
	arrowsBack      []string       // "from → to: name", the fewest that an order of the files has to have, about
}

func (f *folder) measure() shape {
	s := shape{methods: map[string]int{}, fields: map[string]int{}, parameters: map[string]int{}, lines: map[string]int{}}
	f.functions(func(decl *ast.FuncDecl, signature *types.Signature) {
		name := decl.Name.Name
		if of := f.methodOf(signature); of != nil {
			s.methods[of.Name()]++
		}
		if recv := signature.Recv(); recv != nil {
			if of := f.own(recv.Type()); of != nil {
				name = of.Name() + "." + name
			}
		}
		s.parameters[name] = max(s.parameters[name], signature.Params().Len())
		s.functionLines = append(s.functionLines, f.line(decl.End())-f.line(decl.Pos())+1)
	})
	slices.Sort(s.functionLines)
	for _, name := range f.pkg.Scope().Names() {
		if structure, ok := f.pkg.Scope().Lookup(name).Type().Underlying().(*types.Struct); ok {
			if _, isType := f.pkg.Scope().Lookup(name).(*types.TypeName); isType {
				s.fields[name] = structure.NumFields()
			}
		}
	}
	for name, file := range f.files {
		s.lines[name] = f.line(file.FileEnd)
	}
	s.arrowsBack = backArrows(f.arrows())
	return s
}

func (f *folder) line(p token.Pos) int { return f.fset.Position(p).Line }

// methodOf returns the type that a function is a method of, or takes as its first
// argument, not counting a context.
func (f *folder) methodOf(signature *types.Signature) *types.TypeName {
	if recv := signature.Recv(); recv != nil {
		return f.own(recv.Type())
	}
	if signature.Params().Len() == 0 {
		return nil
	}
	return f.own(signature.Params().At(0).Type())
}

// arrows returns which file uses what of which other one of the package: from, to, names.
func (f *folder) arrows() map[string]map[string][]string {
	all := map[string]map[string][]string{}
	for _, from := range slices.Sorted(maps.Keys(f.files)) {
		all[from] = map[string][]string{}
		ast.Inspect(f.files[from], func(n ast.Node) bool {
			ident, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			object := f.info.Uses[ident]
			if object == nil || object.Pkg() != f.pkg || !f.declared(object) {
				return true
			}
			to := filepath.Base(f.fset.Position(object.Pos()).Filename)
			if to != from && f.files[to] != nil && !slices.Contains(all[from][to], ident.Name) {
				all[from][to] = append(all[from][to], ident.Name)
			}
			return true
		})
	}
	return all
}

// declared reports whether object stands outside of functions. A field is not counted:
// its type is.
func (f *folder) declared(object types.Object) bool {
	if fn, ok := object.(*types.Func); ok {
		return fn.Pos().IsValid()
	}
	return object.Parent() == f.pkg.Scope()
}

// backArrows returns the arrows that run back up in a good order of the files: one that
// puts next the file with the most arrows to what is left, less those from it.
func backArrows(arrows map[string]map[string][]string) (back []string) {
	left := maps.Clone(arrows)
	var order []string
	for len(left) > 0 {
		var best string
		most := -1 << 30
		for _, name := range slices.Sorted(maps.Keys(left)) {
			in, out := 0, 0
			for other := range left {
				if len(left[other][name]) > 0 {
					in++
				}
				if len(arrows[name][other]) > 0 {
					out++
				}
			}
			score := out - in
			if in == 0 {
				score = 1 << 20 // nothing left uses it
			}
			if score > most {
				best, most = name, score
			}
		}
		order = append(order, best)
		delete(left, best)
	}
	for i, from := range order {
		for _, to := range order[:i] {
			if names := arrows[from][to]; len(names) > 0 {
				back = append(back, fmt.Sprintf("%s → %s: %s", from, to, strings.Join(names, ", ")))
			}
		}
	}
	return back
}

// exceptions are what exceeds the limits: how far, and why. One that is no longer
// needed fails the test.
var exceptions = map[string]exception{
	"cmd/assay/config Config: fields":         {62, "one field for each setting; its tags are the manual"},
	"storage/bolt DB: methods":                {29, "17 are the contract, 11 what only some engines can do, one its migration"},
	"storage/s3 Options: fields":              {14, "each is a part of the URL, or what the caller gives"},
	"storage/s3 DB: methods":                  {30, "17 are the contract, 13 what only some engines can do"},
	"cmd/bench bench: methods":                {32, "a measure is a method of the run; nothing else uses the type"},
	"proxy/vcs/credential Credential: fields": {13, "one field for each key of the file"},
	"storage/athens Backend.Save: parameters": {7, "the interface is that of Athens"},
	"sumdb/sumdbtest Log: fields":             {13, "one field for each fault"},
	"storage/s3/s3test Fault: fields":         {15, "one field for each fault"},
}

type exception struct {
	most int
	why  string
}

// With -v it prints the figures of each package.
func TestShape(t *testing.T) {
	used := map[string]bool{}
	check := func(what string, n, most int) {
		e, excepted := exceptions[what]
		used[what] = n > most
		switch {
		case n > most && !excepted:
			t.Errorf("%s: %d, more than %d", what, n, most)
		case n > most && n > e.most:
			t.Errorf("%s: %d, more than its exception of %d", what, n, e.most)
		}
	}
	for _, f := range readFolders(t) {
		s := f.measure()
		all := func(measured map[string]int, most int, unit string) {
			for name, n := range measured {
				check(f.path+" "+name+": "+unit, n, most)
			}
		}
		all(s.methods, mostMethods, "methods")
		all(s.fields, mostFields, "fields")
		all(s.parameters, mostParameters, "parameters")
		all(s.lines, mostLines, "lines")
		check(f.path+": arrows back", len(s.arrowsBack), 0)
		if !testing.Verbose() {
			continue
		}
		total := 0
		for _, n := range s.lines {
			total += n
		}
		at := func(percent int) int {
			return s.functionLines[min(len(s.functionLines)*percent/100, len(s.functionLines)-1)]
		}
		t.Logf("%-20s lines %5d files %2d functions %3d/%d/%d/%d parameters %d methods %s fields %s arrows back %d", f.path, total, len(s.lines),
			at(50), at(90), at(99), at(100), slices.Max(slices.Collect(maps.Values(s.parameters))), largest(s.methods), largest(s.fields), len(s.arrowsBack))
		for _, arrow := range s.arrowsBack {
			t.Log("    ", arrow)
		}
	}
	for what, e := range exceptions {
		if !used[what] {
			t.Errorf("the exception %q is no longer needed", what)
		}
		if e.why == "" {
			t.Errorf("the exception %q has no reason", what)
		}
	}
}

// A test is in the package itself only where it needs what others cannot use. All other tests are
// documents, too: they show how to use the package.
func TestInternalTests(t *testing.T) {
	for _, f := range readFolders(t) {
		tests := f.internalTests(t)
		if len(tests) == 0 {
			continue
		}
		maps.Copy(f.files, tests)
		f.resolve()
		for name, file := range tests {
			if !f.usesInside(file) {
				t.Errorf("%s uses nothing unexported; it can be in package %s_test", filepath.Join(f.path, name), file.Name.Name)
			}
		}
	}
}

// internalTests returns the test files that are part of the package itself.
func (f *folder) internalTests(t *testing.T) map[string]*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(f.path, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]*ast.File{}
	for _, name := range names {
		file, err := parser.ParseFile(f.fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(file.Name.Name, "_test") {
			tests[filepath.Base(name)] = file
		}
	}
	return tests
}

// usesInside reports whether a test file uses an unexported name of the package's other files.
func (f *folder) usesInside(file *ast.File) (found bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr: // of a value of unknown type: no other package could allow it
			found = found || !n.Sel.IsExported() && f.info.Uses[n.Sel] == nil
		case *ast.Ident:
			object := f.info.Uses[n]
			if object == nil || object.Pkg() != f.pkg || object.Exported() {
				break
			}
			field, ok := object.(*types.Var)
			inside := f.declared(object) || ok && field.IsField()
			found = found || inside && !strings.HasSuffix(f.fset.Position(object.Pos()).Filename, "_test.go")
		}
		return !found
	})
	return found
}

// largest returns the name with the largest number, and that.
func largest(measured map[string]int) string {
	found, most := "-", 0
	for _, name := range slices.Sorted(maps.Keys(measured)) {
		if measured[name] > most {
			found, most = name, measured[name]
		}
	}
	return fmt.Sprintf("%s %d", found, most)
}
