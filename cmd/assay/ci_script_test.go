package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"go.yaml.in/yaml/v3"
)

const ciDir = "../../deploy/ci/"

// A ciJob is the job of a template in deploy/ci, as its CI system runs it.
type ciJob struct {
	env   map[string]string
	steps []ciStep
}

// A ciStep is one script of a job.
type ciStep struct {
	shell  []string
	env    map[string]string // of this step alone
	script string
	mounts bool   // there is a file $WORK/secret during this step
	secret string // its content
}

// ciSystems say how each CI system reads its file and runs the job. The token is the one that the
// system has for the job, "" without one.
var ciSystems = map[string]func(text, token string) (ciJob, error){
	"github/workflow.yml": githubJob,
	"gitlab.yml":          gitlabJob,
	"Jenkinsfile":         jenkinsJob,
	"buildkite.yml":       buildkiteJob,
	"drone.yml":           droneJob,
	"Dockerfile":          dockerJob,
	"devcontainer.json":   devcontainerJob,
	ciPage:                netrcJob,
}

// ciPage has the lines for versions of Go without GOAUTH.
const ciPage = "../../docs/ci.md"

// jobCmd runs the job of a template, with the script's proxy and database in the place of those in
// the template, in the current directory. The last argument is a file with the token that the CI
// system has for the job, if it has one.
func jobCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: job template [tokenfile]")
	}
	token := ""
	if len(args) == 2 {
		token = strings.TrimSpace(ts.ReadFile(args[1]))
	}
	text, err := ciText(args[0])
	ts.Check(err)
	text = strings.NewReplacer("https://proxy.corp.example", ts.Getenv("ASSAY"), "proxy.corp.example", strings.TrimPrefix(ts.Getenv("ASSAY"), "https://"),
		"sum.golang.org", ts.Getenv("KEY"), "/out/", filepath.Join(ts.Getenv("WORK"), "out")+"/").Replace(text)
	job, err := ciSystems[args[0]](text, token)
	ts.Check(err)
	err = job.run(ts)
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		ts.Fatalf("%s: %v", args[0], err)
	case (err != nil) != neg:
		ts.Fatalf("the job of %s ended with %v", args[0], err)
	}
}

// ciText returns a template; for the workflow of GitHub the action as well, after a line of its own.
func ciText(name string) (string, error) {
	data, err := os.ReadFile(ciDir + name)
	if name == "github/workflow.yml" && err == nil {
		var action []byte
		action, err = os.ReadFile(ciDir + "github/action.yml")
		data = slices.Concat(data, []byte(actionFollows), action)
	}
	return string(data), err
}

const actionFollows = "\n=== action\n"

// run runs the steps until one fails. Like a runner of GitHub it gives the variables that a step
// writes into the file $GITHUB_ENV to the following ones.
func (j ciJob) run(ts *testscript.TestScript) error {
	file, secret := filepath.Join(ts.Getenv("WORK"), "github_env"), filepath.Join(ts.Getenv("WORK"), "secret")
	defer os.Remove(secret)
	for i, step := range j.steps {
		ts.Check(os.WriteFile(file, nil, 0o600))
		ts.Check(os.RemoveAll(secret))
		if step.mounts {
			ts.Check(os.WriteFile(secret, []byte(step.secret), 0o600))
		}
		script := filepath.Join(ts.Getenv("WORK"), fmt.Sprintf("step%d.sh", i))
		ts.Check(os.WriteFile(script, []byte(step.script+"\n"), 0o600))
		cmd := exec.Command(step.shell[0], append(step.shell[1:], script)...)
		cmd.Dir = ts.MkAbs(".")
		cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
		for _, name := range []string{"PATH", "HOME", "TMPDIR", "WORK", "GOPROXY", "GONOSUMDB", "GOPATH", "GOMODCACHE", "GOCACHE", "GOENV", "GOFLAGS", "GOTOOLCHAIN", "GOSUMDB",
			"GOPRIVATE", "SSL_CERT_FILE", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "AGENT_TOKEN"} {
			if value := ts.Getenv(name); value != "" {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
		}
		cmd.Env = append(cmd.Env, "GITHUB_ENV="+file)
		for _, env := range []map[string]string{j.env, step.env} {
			for name, value := range env {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
		}
		if err := cmd.Run(); err != nil {
			return err
		}
		for line := range strings.Lines(ts.ReadFile(file)) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			j.env[name] = value
		}
	}
	return nil
}

// decodeYAML decodes one document, without keys that the value does not have.
func decodeYAML(text string, value any) error {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(value); err != nil {
		return err
	}
	if err := decoder.Decode(new(any)); err != io.EOF {
		return fmt.Errorf("after the document: %v", err)
	}
	return nil
}

// workflow is a workflow of GitHub Actions, as far as the example needs it.
type workflow struct {
	Name        string
	On          []string
	Permissions map[string]string
	Jobs        map[string]struct {
		RunsOn      string `yaml:"runs-on"`
		Permissions map[string]string
		Steps       []struct {
			Uses string
			With map[string]string
			Run  string
		}
	}
}

// action is a composite action of GitHub Actions.
type action struct {
	Name, Description string
	Inputs            map[string]struct {
		Description, Default string
		Required             bool
	}
	Runs struct {
		Using string
		Steps []struct {
			Shell, Run string
			Env        map[string]string
		}
	}
}

var githubInput = regexp.MustCompile(`\$\{\{ inputs\.(\w+) \}\}`)

func githubJob(text, _ string) (ciJob, error) {
	workflowText, actionText, _ := strings.Cut(text, actionFollows)
	var w workflow
	var a action
	if err := errors.Join(decodeYAML(workflowText, &w), decodeYAML(actionText, &a)); err != nil {
		return ciJob{}, err
	}
	if w.Permissions["id-token"] != "" || w.Jobs["test"].Permissions["id-token"] != "write" {
		return ciJob{}, errors.New("the permission to get tokens belongs to the one job that needs it")
	}
	job := ciJob{env: map[string]string{}}
	for _, step := range w.Jobs["test"].Steps {
		switch {
		case step.Run != "":
			job.steps = append(job.steps, ciStep{shell: []string{"bash", "-e"}, script: step.Run})
		case strings.Contains(step.Uses, "/deploy/ci/github@"):
			steps, err := a.steps(step.With)
			if err != nil {
				return ciJob{}, err
			}
			job.steps = append(job.steps, steps...)
		}
	}
	return job, nil
}

// steps returns the steps of the action with the inputs.
func (a action) steps(with map[string]string) ([]ciStep, error) {
	inputs := map[string]string{}
	for name, input := range a.Inputs {
		inputs[name] = input.Default
		if input.Required && with[name] == "" {
			return nil, fmt.Errorf("the action needs the input %s", name)
		}
	}
	for name, value := range with {
		if _, ok := inputs[name]; !ok {
			return nil, fmt.Errorf("the action has no input %s", name)
		}
		inputs[name] = value
	}
	var steps []ciStep
	for _, step := range a.Runs.Steps {
		if strings.Contains(step.Run, "${{") {
			return nil, errors.New("an expression in a script: its value would be a part of the script")
		}
		env := map[string]string{}
		for name, value := range step.Env {
			env[name] = githubInput.ReplaceAllStringFunc(value, func(text string) string { return inputs[githubInput.FindStringSubmatch(text)[1]] })
		}
		steps = append(steps, ciStep{shell: []string{step.Shell, "--noprofile", "--norc", "-eo", "pipefail"}, env: env, script: step.Run})
	}
	return steps, nil
}

// gitlabVariable is the value of a variable, which GitLab expands if it does not say otherwise.
type gitlabVariable struct {
	Value  string
	Expand bool
}

func (v *gitlabVariable) UnmarshalYAML(node *yaml.Node) error {
	v.Expand = true
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&v.Value)
	}
	type plain gitlabVariable
	return node.Decode((*plain)(v))
}

var gitlabInput = regexp.MustCompile(`\$\[\[ inputs\.(\w+) \]\]`)

func gitlabJob(text, token string) (ciJob, error) {
	var head struct {
		Spec struct {
			Inputs map[string]struct{ Description, Regex, Default string }
		}
	}
	var including struct {
		Include []struct {
			Project, File string
			Inputs        map[string]string
		}
		Test struct {
			Extends, Image string
			Script         []string
		}
	}
	var included map[string]struct {
		IDTokens  map[string]struct{ Aud string } `yaml:"id_tokens"`
		Variables map[string]gitlabVariable
	}
	headText, body, _ := strings.Cut(text, "\n---\n")
	var comment strings.Builder
	for line := range strings.Lines(headText) {
		if line, ok := strings.CutPrefix(line, "#   "); ok {
			comment.WriteString(line)
		}
	}
	if err := errors.Join(decodeYAML(headText, &head), decodeYAML(comment.String(), &including)); err != nil {
		return ciJob{}, err
	}
	inputs := map[string]string{}
	for name, input := range head.Spec.Inputs {
		value, ok := including.Include[0].Inputs[name]
		if !ok {
			value = input.Default
		}
		if !regexp.MustCompile(input.Regex).MatchString(value) {
			return ciJob{}, fmt.Errorf("the input %s is %q, which does not match %s", name, value, input.Regex)
		}
		inputs[name] = value
	}
	body = gitlabInput.ReplaceAllStringFunc(body, func(text string) string { return inputs[gitlabInput.FindStringSubmatch(text)[1]] })
	if err := decodeYAML(body, &included); err != nil {
		return ciJob{}, err
	}
	template := included[including.Test.Extends]
	job := ciJob{env: map[string]string{}, steps: []ciStep{{shell: []string{"sh", "-e"}, script: strings.Join(including.Test.Script, "\n")}}}
	for name := range template.IDTokens {
		job.env[name] = token
	}
	for name, variable := range template.Variables {
		if variable.Expand {
			variable.Value = os.Expand(variable.Value, func(name string) string { return job.env[name] })
		}
		job.env[name] = variable.Value
	}
	return job, nil
}

var (
	jenkinsVariable   = regexp.MustCompile(`(?m)^ +([A-Z_]+) = '([^']*)'`)
	jenkinsCredential = regexp.MustCompile(`(?m)^ +([A-Z_]+) = credentials\('assay-token'\)$`)
	jenkinsScript     = regexp.MustCompile(`(?s)sh '''(.*?)'''`)
)

// jenkinsJob expands the variables of the environment as Jenkins does. Its shell prints each
// command.
func jenkinsJob(text, token string) (ciJob, error) {
	if strings.Contains(text, `\`) {
		return ciJob{}, errors.New("Groovy reads backslashes")
	}
	job := ciJob{env: map[string]string{}}
	for _, credential := range jenkinsCredential.FindAllStringSubmatch(text, -1) {
		job.env[credential[1]] = token
	}
	for _, variable := range jenkinsVariable.FindAllStringSubmatch(text, -1) {
		job.env[variable[1]] = os.Expand(variable[2], func(name string) string { return job.env[name] })
	}
	for _, script := range jenkinsScript.FindAllStringSubmatch(text, -1) {
		job.steps = append(job.steps, ciStep{shell: []string{"sh", "-xe"}, script: script[1]})
	}
	return job, nil
}

var buildkiteVariable = regexp.MustCompile(`\$\$|\$\{?\w*\}?`)

// buildkiteJob replaces variables when the pipeline is uploaded, as the agent does.
func buildkiteJob(text, _ string) (ciJob, error) {
	text = buildkiteVariable.ReplaceAllStringFunc(text, func(found string) string {
		if found == "$$" {
			return "$"
		}
		return ""
	})
	var pipeline struct {
		Env   map[string]string
		Steps []struct {
			Label   string
			Command []string
		}
	}
	if err := decodeYAML(text, &pipeline); err != nil {
		return ciJob{}, err
	}
	job := ciJob{env: pipeline.Env}
	for _, step := range pipeline.Steps {
		job.steps = append(job.steps, ciStep{shell: []string{"bash", "-e"}, script: strings.Join(step.Command, "\n")})
	}
	return job, nil
}

// droneVariable is the value of a variable, or the name of the secret that has it.
type droneVariable struct {
	value  string
	Secret string `yaml:"from_secret"`
}

func (v *droneVariable) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&v.value)
	}
	type plain droneVariable
	return node.Decode((*plain)(v))
}

func droneJob(text, token string) (ciJob, error) {
	if strings.Contains(text, "${") {
		return ciJob{}, errors.New("Drone replaces variables in braces")
	}
	var pipeline struct {
		Kind, Type, Name string
		Steps            []struct {
			Name, Image string
			Environment map[string]droneVariable
			Commands    []string
		}
	}
	if err := decodeYAML(text, &pipeline); err != nil {
		return ciJob{}, err
	}
	job := ciJob{env: map[string]string{}}
	for _, step := range pipeline.Steps {
		env := map[string]string{}
		for name, variable := range step.Environment {
			env[name] = variable.value
			if variable.Secret == "assay_token" {
				env[name] = token
			}
		}
		job.steps = append(job.steps, ciStep{shell: []string{"sh", "-xe"}, env: env, script: strings.Join(step.Commands, "\n")})
	}
	return job, nil
}

var (
	dockerArg = regexp.MustCompile(`(?m)^ARG (\w+)=(.*)$`)
	dockerRun = regexp.MustCompile(`(?m)^RUN (--mount=type=secret,id=assay )?(.*)$`)
)

// dockerJob runs the commands of a build on this machine, with a file in the place of the secret in
// the container, for the commands that mount it. The file is empty if the variable of the secret is.
func dockerJob(text, token string) (ciJob, error) {
	job := ciJob{env: map[string]string{}}
	for _, arg := range dockerArg.FindAllStringSubmatch(text, -1) {
		job.env[arg[1]] = strings.ReplaceAll(strings.Trim(arg[2], "'"), "/run/secrets/assay", "$WORK/secret")
	}
	for _, run := range dockerRun.FindAllStringSubmatch(text, -1) {
		step := ciStep{shell: []string{"sh", "-e"}, script: run[2]}
		if run[1] != "" {
			step.mounts, step.secret = true, token
		}
		job.steps = append(job.steps, step)
	}
	return job, nil
}

// devcontainerMount is the mount of the token. A variable in remoteEnv would be an argument of docker exec.
const devcontainerMount = "source=${localEnv:HOME}${localEnv:USERPROFILE}/.config/assay-token,target=/run/secrets/assay,type=bind,readonly"

// devcontainerJob runs the command after the creation of the container on this machine, with a file in the
// place of the mounted one.
func devcontainerJob(text, token string) (ciJob, error) {
	var container struct {
		Name, Image       string
		Mounts            []string
		ContainerEnv      map[string]string
		PostCreateCommand string
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&container); err != nil {
		return ciJob{}, err
	}
	step := ciStep{shell: []string{"sh", "-e"}, script: container.PostCreateCommand}
	step.mounts, step.secret = slices.Contains(container.Mounts, devcontainerMount), token
	job := ciJob{env: map[string]string{}, steps: []ciStep{step}}
	for name, value := range container.ContainerEnv {
		job.env[name] = strings.ReplaceAll(value, "/run/secrets/assay", "$WORK/secret")
	}
	return job, nil
}

var netrcLines = regexp.MustCompile(`(?m)^### Go 1\.23 .*\n(?:\n|\S.*\n)+((?:    .*\n)+)`)

// netrcJob runs the lines for versions of Go without GOAUTH, in a shell that prints each command.
func netrcJob(text, token string) (ciJob, error) {
	lines := netrcLines.FindStringSubmatch(text)
	if lines == nil {
		return ciJob{}, errors.New("the page has no lines for a netrc")
	}
	script := regexp.MustCompile(`(?m)^    `).ReplaceAllString(lines[1], "")
	return ciJob{env: map[string]string{"ASSAY_TOKEN": token, "GOAUTH": "netrc"}, steps: []ciStep{{shell: []string{"sh", "-xe"}, script: script}}}, nil
}
