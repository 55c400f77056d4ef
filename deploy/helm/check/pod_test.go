package check_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
)

var (
	podFile     = flag.String("pod", "", "rendered file whose pod TestPod runs; needs Docker and root")
	podImage    = flag.String("image", "", "image for it")
	podSecret   = flag.String("secrets", "", "directory with a directory for each Secret")
	restoreFile = flag.String("restore", "", "manifest with the pod that restores a backup")
)

// kubelet does for one pod, with Docker, what a kubelet does: volumes with the owner and modes that
// fsGroup gives them, the container with its rights and limits, probes, and the grace period.
type kubelet struct {
	t       *testing.T
	release release
	pod     core.PodSpec
	dir     string // the volumes
	name    string // of the container
}

// newKubelet returns one for a pod of a rendered file, which pod selects, with its volumes.
func newKubelet(t *testing.T, file, name string, pod func(release) core.PodSpec) *kubelet {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{t: t, release: r, pod: pod(r), dir: t.TempDir(), name: name}
	k.makeVolumes()
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "--force", "--volumes", name).Run() })
	return k
}

// The pod that the chart describes starts with the volumes that a kubelet makes, is ready, can be backed up
// by exec, keeps its data when the kubelet changes the modes of its files, and stops in its grace period.
func TestPod(t *testing.T) {
	if *podFile == "" {
		t.Skip("no -pod; run deploy/test/run helm")
	}
	k := newKubelet(t, *podFile, "assay-test-helm-pod", func(r release) core.PodSpec {
		return only[*apps.StatefulSet](t, r).Spec.Template.Spec
	})
	k.docker(append([]string{"run", "--detach"}, k.flags()...)...)
	k.ready()
	if mode := k.mode("data/assay"); mode != 0o700 {
		t.Errorf("the data directory has mode %04o", mode)
	}
	archive, err := exec.Command("docker", "exec", k.name, "/assay", "backup", "-").Output()
	if err != nil {
		t.Fatalf("the backup: %v", err)
	}

	k.docker("stop", "--time", "60", k.name)
	k.setGroup("data") // as for a volume whose root has another group
	k.docker("start", k.name)
	k.ready()

	begin := time.Now()
	grace := *k.pod.TerminationGracePeriodSeconds
	k.docker("stop", "--time", fmt.Sprint(grace), k.name)
	delay := seconds(t, k.pod.Containers[0], "ASSAY_SHUTDOWN_DELAY")
	if took := time.Since(begin); took < delay || took >= time.Duration(grace)*time.Second {
		t.Errorf("it stopped after %v, with a delay of %v and a grace period of %d s", took, delay, grace)
	}
	if status := strings.TrimSpace(k.docker("inspect", "--format", "{{.State.ExitCode}}", k.name)); status != "0" {
		t.Errorf("exit status %s", status)
	}
	restore(t, archive)
}

// restore runs the pod that puts a backup into a new volume.
func restore(t *testing.T, archive []byte) {
	k := newKubelet(t, *restoreFile, "assay-test-helm-restore", func(r release) core.PodSpec { return only[*core.Pod](t, r).Spec })
	cmd := exec.Command("docker", append([]string{"run", "--interactive"}, k.flags()...)...)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the restore: %v\n%s", err, out)
	}
	for _, name := range []string{"data/assay/meta.db", "data/assay/log/key"} {
		if mode := k.mode(name); mode&0o007 != 0 {
			t.Errorf("%s has mode %04o", name, mode)
		}
	}
}

// makeVolumes makes the volumes of the pod.
func (k *kubelet) makeVolumes() {
	k.mkdir("data", 0o755)
	k.mkdir("data/lost+found", 0o700) // of ext4
	k.setGroup("data")
	if err := os.Chown(filepath.Join(k.dir, "data/lost+found"), 0, 0); err != nil {
		k.t.Fatal(err)
	}
	for _, v := range k.pod.Volumes {
		if v.PersistentVolumeClaim != nil {
			continue // data
		}
		k.mkdir(v.Name, 0o755)
		switch {
		case v.ConfigMap != nil:
			for name, text := range only[*core.ConfigMap](k.t, k.release).Data {
				k.write(filepath.Join(v.Name, name), []byte(text), 0o644)
			}
		case v.Secret != nil:
			k.copySecret(v.Name, v.Secret.SecretName, nil, *v.Secret.DefaultMode)
		case v.Projected != nil:
			for _, source := range v.Projected.Sources {
				k.copySecret(v.Name, source.Secret.Name, source.Secret.Items, *v.Projected.DefaultMode)
			}
		}
	}
}

// copySecret writes the keys of a Secret into a volume, all of them without items.
func (k *kubelet) copySecret(volume, secret string, items []core.KeyToPath, mode int32) {
	if items == nil {
		entries, err := os.ReadDir(filepath.Join(*podSecret, secret))
		if err != nil {
			k.t.Fatal(err)
		}
		for _, e := range entries {
			items = append(items, core.KeyToPath{Key: e.Name(), Path: e.Name()})
		}
	}
	for _, item := range items {
		data, err := os.ReadFile(filepath.Join(*podSecret, secret, item.Key))
		if err != nil {
			k.t.Fatal(err)
		}
		k.write(filepath.Join(volume, item.Path), data, fs.FileMode(mode))
	}
}

// write makes a file that belongs to root and to the group of the pod.
func (k *kubelet) write(name string, data []byte, mode fs.FileMode) {
	name = filepath.Join(k.dir, name)
	err := errors.Join(os.WriteFile(name, data, mode), os.Chmod(name, mode), os.Chown(name, 0, int(*k.pod.SecurityContext.FSGroup)))
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *kubelet) mkdir(name string, mode fs.FileMode) {
	if err := os.Mkdir(filepath.Join(k.dir, name), mode); err != nil {
		k.t.Fatal(err)
	}
}

// setGroup gives the files of a volume the group of the pod, and the modes that a kubelet gives them.
func (k *kubelet) setGroup(volume string) {
	err := filepath.WalkDir(filepath.Join(k.dir, volume), func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(name)
		if err != nil || info.Mode()&fs.ModeSocket != 0 {
			return err
		}
		mode := info.Mode().Perm() | 0o660
		if d.IsDir() {
			mode |= 0o110 | fs.ModeSetgid
		}
		return errors.Join(os.Lchown(name, -1, int(*k.pod.SecurityContext.FSGroup)), os.Chmod(name, mode))
	})
	if err != nil {
		k.t.Fatal(err)
	}
}

// mode returns the permissions of a file in the volumes.
func (k *kubelet) mode(name string) fs.FileMode {
	info, err := os.Stat(filepath.Join(k.dir, name))
	if err != nil {
		k.t.Fatal(err)
	}
	return info.Mode().Perm()
}

// flags returns the flags and arguments of docker run for the container of the pod.
func (k *kubelet) flags() []string {
	c, s := k.pod.Containers[0], k.pod.SecurityContext
	args := []string{
		"--name", k.name, "--user", fmt.Sprintf("%d:%d", *s.RunAsUser, *s.RunAsGroup), "--group-add", fmt.Sprint(*s.FSGroup),
		"--memory", fmt.Sprint(c.Resources.Limits.Memory().Value()), "--security-opt", "no-new-privileges", "--read-only",
	}
	for _, capability := range c.SecurityContext.Capabilities.Drop {
		args = append(args, "--cap-drop", string(capability))
	}
	for _, v := range c.Env {
		args = append(args, "--env", v.Name+"="+v.Value)
	}
	for _, m := range c.VolumeMounts {
		mount := filepath.Join(k.dir, m.Name) + ":" + m.MountPath
		if m.ReadOnly {
			mount += ":ro"
		}
		args = append(args, "--volume", mount)
	}
	for _, p := range c.Ports {
		args = append(args, "--publish", fmt.Sprintf("127.0.0.1::%d", p.ContainerPort))
	}
	return append(append(args, *podImage), c.Args...)
}

// ready waits until the probes of the container succeed, and requests the setup script from clients' port.
func (k *kubelet) ready() {
	c := k.pod.Containers[0]
	for _, p := range []*core.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
		url := "http://" + k.address(portOf(c, p.HTTPGet.Port.StrVal)) + p.HTTPGet.Path
		end := time.Now().Add(time.Minute)
		for k.get(url) != http.StatusOK {
			if time.Now().After(end) {
				k.t.Fatalf("%s does not succeed; the log is\n%s", url, k.docker("logs", k.name))
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	scheme := "http"
	if variable(c, "ASSAY_TLS_CERT") != "" {
		scheme = "https"
	}
	if url := scheme + "://" + k.address(portOf(c, "http")) + "/livez"; k.get(url) != http.StatusOK {
		k.t.Errorf("%s does not answer; the log is\n%s", url, k.docker("logs", k.name))
	}
}

// address returns where a port of the container is on this machine.
func (k *kubelet) address(port string) string {
	return strings.TrimSpace(k.docker("port", k.name, strings.TrimPrefix(port, ":")))
}

// get returns the status of an answer, 0 without one. Like a kubelet, it checks no certificate.
func (k *kubelet) get(url string) int {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// docker runs a command of Docker and returns its output.
func (k *kubelet) docker(args ...string) string {
	k.t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		k.t.Fatalf("docker %q: %v\n%s", args, err, out)
	}
	return string(out)
}
