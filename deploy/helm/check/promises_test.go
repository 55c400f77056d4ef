package check_test

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	names "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// Names and labels are valid, and no name is there twice.
func TestNames(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		seen := map[string]bool{}
		for _, o := range r {
			name := fmt.Sprintf("%T %s", o, o.GetName())
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
			for _, problem := range names.IsDNS1123Label(o.GetName()) {
				t.Errorf("%s: %s", name, problem)
			}
			for _, problem := range validation.ValidateLabels(o.GetLabels(), field.NewPath(name)) {
				t.Error(problem)
			}
		}
	})
}

// There is one writer at most, also during an update, and its volume survives the release.
func TestOneWriter(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		if len(all[*apps.Deployment](r)) > 0 {
			t.Skip("servers that share a bucket")
		}
		s := only[*apps.StatefulSet](t, r)
		if len(all[*apps.DaemonSet](r)) > 0 {
			t.Error("there is another controller of pods than the StatefulSet")
		}
		if s.Spec.Replicas == nil || *s.Spec.Replicas > 1 {
			t.Errorf("replicas: %v", s.Spec.Replicas)
		}
		if s.Spec.PodManagementPolicy != apps.ParallelPodManagement {
			t.Error("an update that does not become ready blocks its own correction")
		}
		claims := s.Spec.VolumeClaimTemplates
		if len(claims) != 1 || claims[0].Labels["helm.sh/chart"] != "" || claims[0].Labels["app.kubernetes.io/version"] != "" {
			t.Errorf("claims %v: there must be one, without a version, which could not be changed", claims)
		}
		if mode := claims[0].Spec.AccessModes; len(mode) != 1 || mode[0] != core.ReadWriteOnce && mode[0] != core.ReadWriteOncePod {
			t.Errorf("access modes %v", mode)
		}
		if s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled != apps.RetainPersistentVolumeClaimRetentionPolicyType {
			t.Error("a server that is stopped loses its volume")
		}
		headless := false
		for _, service := range all[*core.Service](r) {
			headless = headless || service.Name == s.Spec.ServiceName && service.Spec.ClusterIP == core.ClusterIPNone
		}
		if !headless {
			t.Errorf("there is no headless Service %s", s.Spec.ServiceName)
		}
	})
}

// sharedBucket and alone find the settings that decide which controller the servers have.
var (
	sharedBucket = regexp.MustCompile(`(?m)^store = "s3://`)
	alone        = regexp.MustCompile(`(?m)^single_replica = true$`)
)

// Servers are of a Deployment if they share a bucket, and never otherwise: it would start a second writer of one store.
func TestController(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		for _, config := range all[*core.ConfigMap](r) {
			text, ok := config.Data["assay.toml"]
			if !ok {
				continue
			}
			shared := sharedBucket.MatchString(text) && !alone.MatchString(text)
			if deployments := len(all[*apps.Deployment](r)); shared != (deployments == 1) || shared == (len(all[*apps.StatefulSet](r)) == 1) {
				t.Errorf("shared is %v, and there are %d Deployments", shared, deployments)
			}
		}
	})
}

// Servers that share a bucket are replaced one by one, are on different nodes, and have a volume of their own with a
// limit; a drain takes one of them.
func TestReplicas(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		if len(all[*apps.Deployment](r)) == 0 {
			t.Skip("one server")
		}
		d := only[*apps.Deployment](t, r)
		if len(all[*apps.StatefulSet](r))+len(all[*core.PersistentVolumeClaim](r)) > 0 {
			t.Error("there is a StatefulSet, or a claim that the servers would share")
		}
		update := d.Spec.Strategy.RollingUpdate
		if d.Spec.Strategy.Type != apps.RollingUpdateDeploymentStrategyType || update.MaxUnavailable.IntValue() != 0 || update.MaxSurge.IntValue() != 1 {
			t.Errorf("the strategy is %v", d.Spec.Strategy)
		}
		pod := d.Spec.Template.Spec
		if len(pod.TopologySpreadConstraints) == 0 {
			t.Error("all servers may be on one node")
		}
		for _, c := range pod.TopologySpreadConstraints {
			selector, err := meta.LabelSelectorAsSelector(c.LabelSelector)
			if err != nil || !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
				t.Errorf("what spreads the servers selects %v, %v", c.LabelSelector, err)
			}
		}
		for _, v := range pod.Volumes {
			limited := v.EmptyDir != nil && v.EmptyDir.SizeLimit.Value() > 0 && v.EmptyDir.Medium == core.StorageMediumDefault ||
				v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate.Spec.Resources.Requests.Storage().Value() > 0
			if v.Name == "data" && !limited {
				t.Errorf("the volume of the data directory is %+v", v.VolumeSource)
			}
		}
		for _, o := range all[*policy.PodDisruptionBudget](r) {
			if o.Spec.MinAvailable != nil || o.Spec.MaxUnavailable.IntValue() != 1 {
				t.Errorf("a drain takes %v", o.Spec.MaxUnavailable)
			}
		}
	})
}

// The port of the object store is one that the network policy lets servers reach, also if nothing else is.
func TestBucketPort(t *testing.T) {
	for name, port := range map[string]int{"replicas": 9000, "aws": 443, "single": 443, "log": 9443} {
		forRelease(t, name, func(t *testing.T, r release) {
			for _, rule := range only[*networking.NetworkPolicy](t, r).Spec.Egress {
				for _, p := range rule.Ports {
					if p.Port.IntValue() == port && *p.Protocol == core.ProtocolTCP && len(rule.To) > 0 {
						return
					}
				}
			}
			t.Errorf("port %d of the object store cannot be reached", port)
		})
	}
}

// The credentials of the bucket are read from the Secret, and are in no other object.
func TestBucketSecret(t *testing.T) {
	for _, name := range []string{"replicas", "single"} {
		forRelease(t, name, func(t *testing.T, r release) {
			found := map[string]*core.EnvVarSource{}
			for _, v := range server(t, r).Template.Spec.Containers[0].Env {
				found[v.Name] = v.ValueFrom
			}
			for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
				if from := found[name]; from == nil || from.SecretKeyRef == nil || from.SecretKeyRef.Name != "assay-bucket" || from.SecretKeyRef.Key != name {
					t.Errorf("%s is from %v", name, from)
				}
			}
		})
	}
}

// Every pod has no rights that it does not need.
func TestPodSecurity(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		for name, pod := range pods(r) {
			s := pod.SecurityContext
			if s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || *s.RunAsUser != 65532 || *s.FSGroup != 65532 {
				t.Errorf("%s: security %v", name, s)
			}
			if s.SeccompProfile == nil || s.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: seccomp %v", name, s.SeccompProfile)
			}
			if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
				t.Errorf("%s has a token for the API", name)
			}
			if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
				t.Errorf("%s gets variables that begin with ASSAY_ from Services", name)
			}
			for _, c := range pod.Containers {
				s := c.SecurityContext
				if s == nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Contains(s.Capabilities.Drop, "ALL") || len(s.Capabilities.Add) > 0 {
					t.Errorf("%s: security of %s %v", name, c.Name, s)
				}
			}
		}
		for _, account := range all[*core.ServiceAccount](r) {
			if account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken {
				t.Error("the account gives its token to pods")
			}
		}
	})
}

// Names of hosts are asked for as they are.
func TestNdots(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		for name, pod := range pods(r) {
			found := false
			for _, option := range pod.DNSConfig.Options {
				found = found || option.Name == "ndots" && *option.Value == "1"
			}
			if !found {
				t.Errorf("%s does not have ndots 1", name)
			}
		}
	})
}

// The grace period has time for the settings shutdown-delay and shutdown-timeout, and the delay for
// the readiness probe to fail. The start may take long.
func TestTimes(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		pod := server(t, r).Template.Spec
		c := pod.Containers[0]
		delay, timeout := seconds(t, c, "ASSAY_SHUTDOWN_DELAY"), seconds(t, c, "ASSAY_SHUTDOWN_TIMEOUT")
		if grace := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; grace < delay+timeout+10*time.Second {
			t.Errorf("grace %v for delay %v and timeout %v", grace, delay, timeout)
		}
		if p := c.StartupProbe; p.HTTPGet.Path != "/livez" || p.PeriodSeconds*p.FailureThreshold < 10 {
			t.Errorf("the startup probe gives %d s", p.PeriodSeconds*p.FailureThreshold)
		}
		if c.LivenessProbe.HTTPGet.Path != "/livez" || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
			t.Error("probes request other paths")
		}
		for _, p := range []*core.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if p.HTTPGet.Scheme != "" || p.HTTPGet.Port.StrVal != "metrics" || portOf(c, "metrics") != variable(c, "ASSAY_METRICS_LISTEN") {
				t.Errorf("a probe requests %v", p.HTTPGet)
			}
		}
	})
}

// portOf returns the address of a port of a container, by its name.
func portOf(c core.Container, name string) string {
	for _, p := range c.Ports {
		if p.Name == name {
			return fmt.Sprintf(":%d", p.ContainerPort)
		}
	}
	return ""
}

// seconds returns the duration in a variable.
func seconds(t *testing.T, c core.Container, name string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(variable(c, name))
	if err != nil {
		t.Error(err)
	}
	return d
}

// variable returns the value of a variable of a container, "" without one.
func variable(c core.Container, name string) string {
	value := ""
	for _, v := range c.Env { // the last one counts
		if v.Name == name {
			value = v.Value
		}
	}
	return value
}

// Each mount has its volume, each file of a setting is in a mount, and no variable is there twice.
func TestMounts(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		for name, pod := range pods(r) {
			volumes := map[string]bool{}
			for _, v := range pod.Volumes {
				volumes[v.Name] = true
			}
			for _, s := range all[*apps.StatefulSet](r) {
				for _, claim := range s.Spec.VolumeClaimTemplates {
					volumes[claim.Name] = true
				}
			}
			for _, c := range pod.Containers {
				var paths []string
				for _, m := range c.VolumeMounts {
					if !volumes[m.Name] {
						t.Errorf("%s mounts %s, which is no volume", name, m.Name)
					}
					if m.SubPath != "" {
						t.Errorf("%s mounts %s by subPath, which never changes", name, m.Name)
					}
					paths = append(paths, m.MountPath)
				}
				for _, outer := range paths {
					for _, inner := range paths {
						if strings.HasPrefix(inner, outer+"/") {
							t.Errorf("%s mounts %s in %s, which is read-only", name, inner, outer)
						}
					}
				}
				seen := map[string]bool{}
				for _, v := range c.Env {
					if seen[v.Name] {
						t.Errorf("%s has %s twice", name, v.Name)
					}
					seen[v.Name] = true
					below := func(path string) bool { return strings.HasPrefix(v.Value, path+"/") }
					if strings.HasPrefix(v.Value, "/etc/assay/") && !slices.ContainsFunc(paths, below) {
						t.Errorf("%s has %s=%s, which is in no volume", name, v.Name, v.Value)
					}
				}
			}
		}
	})
}

// Secrets are readable for the group of the server alone.
func TestSecretModes(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		for _, v := range server(t, r).Template.Spec.Volumes {
			var mode *int32
			switch {
			case v.Projected != nil:
				mode = v.Projected.DefaultMode
			case v.Secret != nil:
				mode = v.Secret.DefaultMode
			default:
				continue
			}
			if mode == nil || *mode != 0o440 {
				t.Errorf("the files of %s have mode %v", v.Name, mode)
			}
		}
	})
}

// What selects pods selects those of the server, and the monitor selects one Service of the two.
func TestSelectors(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		s := server(t, r)
		pod := labels.Set(s.Template.Labels)
		check := func(what string, selector *meta.LabelSelector) {
			if parsed, err := meta.LabelSelectorAsSelector(selector); err != nil || parsed.Empty() || !parsed.Matches(pod) {
				t.Errorf("%s selects %v, and the pod has %v", what, selector, pod)
			}
		}
		check("the controller", s.Selector)
		for _, o := range all[*core.Service](r) {
			check("Service", &meta.LabelSelector{MatchLabels: o.Spec.Selector})
			for _, p := range o.Spec.Ports {
				if portOf(s.Template.Spec.Containers[0], p.TargetPort.StrVal) == "" {
					t.Errorf("Service %s sends to port %v", o.Name, p.TargetPort)
				}
			}
		}
		for _, o := range all[*policy.PodDisruptionBudget](r) {
			check("PodDisruptionBudget", o.Spec.Selector)
			if *o.Spec.UnhealthyPodEvictionPolicy != policy.AlwaysAllow {
				t.Error("a pod that is not ready blocks a drain")
			}
		}
		for _, o := range all[*networking.NetworkPolicy](r) {
			check("NetworkPolicy", &o.Spec.PodSelector)
		}
		for _, o := range all[*monitoring.ServiceMonitor](r) {
			selector, err := meta.LabelSelectorAsSelector(&o.Spec.Selector)
			if err != nil {
				t.Fatal(err)
			}
			var selected []*core.Service
			for _, service := range all[*core.Service](r) {
				named := func(p core.ServicePort) bool { return p.Name == o.Spec.Endpoints[0].Port }
				if selector.Matches(labels.Set(service.Labels)) && slices.ContainsFunc(service.Spec.Ports, named) {
					selected = append(selected, service)
				}
			}
			if len(selected) != 1 {
				t.Fatalf("the ServiceMonitor selects %d Services", len(selected))
			}
			job := jobOf(o, selected[0])
			if job != "assay" {
				t.Errorf("the job is %q", job)
			}
			for _, other := range jobsOf(r) {
				if other != job {
					t.Errorf("the job is %q, and a rule selects %q", job, other)
				}
			}
		}
	})
}

// jobOf returns the label job of the series of a monitor, as the Prometheus operator sets it.
func jobOf(o *monitoring.ServiceMonitor, service *core.Service) string {
	job := service.Name
	if value := service.Labels[o.Spec.JobLabel]; value != "" {
		job = value
	}
	for _, c := range o.Spec.Endpoints[0].RelabelConfigs {
		if c.TargetLabel == "job" && len(c.SourceLabels) == 0 && c.Replacement != nil {
			job = *c.Replacement
		}
	}
	return job
}

// jobsOf returns the jobs that the rules select.
func jobsOf(r release) []string {
	var jobs []string
	for _, o := range all[*monitoring.PrometheusRule](r) {
		for _, group := range o.Spec.Groups {
			for _, rule := range group.Rules {
				for _, match := range regexp.MustCompile(`\bjob="([^"]*)"`).FindAllStringSubmatch(rule.Expr.StrVal, -1) {
					jobs = append(jobs, match[1])
				}
			}
		}
	}
	return jobs
}

// The alerts select series by the job.
func TestRulesHaveJob(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		if len(all[*monitoring.PrometheusRule](r)) > 0 && len(jobsOf(r)) == 0 {
			t.Error("no rule selects a job")
		}
	})
}

// An Ingress and an HTTPRoute lead to the Service, with a port that it has.
func TestRoutes(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		ports := map[string]bool{} // of Services, by name and by number
		for _, s := range all[*core.Service](r) {
			for _, p := range s.Spec.Ports {
				ports[s.Name+":"+p.Name] = true
				ports[s.Name+":"+strconv.Itoa(int(p.Port))] = true
			}
		}
		for _, o := range all[*networking.Ingress](r) {
			for _, rule := range o.Spec.Rules {
				if b := rule.HTTP.Paths[0].Backend.Service; !ports[b.Name+":"+b.Port.Name] {
					t.Errorf("the Ingress leads to %v", b)
				}
			}
		}
		for _, o := range all[*gateway.HTTPRoute](r) {
			if b := o.Spec.Rules[0].BackendRefs[0]; !ports[fmt.Sprintf("%s:%d", b.Name, *b.Port)] {
				t.Errorf("the HTTPRoute leads to %v", b)
			}
		}
	})
}

// No Job runs forever.
func TestJobsEnd(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		jobs := map[string]batch.JobSpec{}
		for _, o := range all[*batch.Job](r) {
			jobs[o.Name] = o.Spec
		}
		for _, o := range all[*batch.CronJob](r) {
			jobs[o.Name] = o.Spec.JobTemplate.Spec
			if o.Spec.ConcurrencyPolicy != batch.ForbidConcurrent {
				t.Errorf("%s may run twice", o.Name)
			}
		}
		for name, job := range jobs {
			if job.ActiveDeadlineSeconds == nil || *job.ActiveDeadlineSeconds <= 0 {
				t.Errorf("%s has no activeDeadlineSeconds", name)
			}
		}
	})
}

// controller is what a StatefulSet and a Deployment have in common.
type controller struct {
	Selector *meta.LabelSelector
	Template core.PodTemplateSpec
}

// server returns the controller of the servers.
func server(t *testing.T, r release) controller {
	t.Helper()
	if len(all[*apps.Deployment](r)) > 0 {
		d := only[*apps.Deployment](t, r).Spec
		return controller{d.Selector, d.Template}
	}
	s := only[*apps.StatefulSet](t, r).Spec
	return controller{s.Selector, s.Template}
}

// pods returns the pods that controllers make, by the controller's name.
func pods(r release) map[string]core.PodSpec {
	found := map[string]core.PodSpec{}
	for _, o := range r {
		switch o := o.(type) {
		case *apps.StatefulSet:
			found[o.Name] = o.Spec.Template.Spec
		case *apps.Deployment:
			found[o.Name] = o.Spec.Template.Spec
		case *core.Pod:
			found[o.Name] = o.Spec
		case *batch.Job:
			found[o.Name] = o.Spec.Template.Spec
		case *batch.CronJob:
			found[o.Name] = o.Spec.JobTemplate.Spec.Template.Spec
		}
	}
	return found
}

// The strict decoder refuses what the API server refuses.
func TestDecode(t *testing.T) {
	for name, document := range map[string]string{
		"an unknown field":  "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {port: 80}\n",
		"a repeated field":  "apiVersion: v1\nkind: Service\nkind: Service\nmetadata: {name: a}\n",
		"a wrong type":      "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: eighty}]}\n",
		"an unknown kind":   "apiVersion: v1\nkind: Servis\nmetadata: {name: a}\n",
		"timeoutSeconds":    "apiVersion: batch/v1\nkind: Job\nmetadata: {name: a}\nspec: {timeoutSeconds: 120}\n",
		"an unknown route":  "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: a}\nspec: {host: a}\n",
		"an unknown metric": "apiVersion: monitoring.coreos.com/v1\nkind: ServiceMonitor\nmetadata: {name: a}\nspec: {endpoint: []}\n",
	} {
		if _, err := decode([]byte(document)); err == nil {
			t.Errorf("%s is not refused", name)
		}
	}
	if r, err := decode([]byte("# nothing\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n")); err != nil || len(r) != 1 {
		t.Errorf("%v, %v", r, err)
	}
}

// An upgrade of the chart changes no field that the API server would refuse to change.
func TestUpgrade(t *testing.T) {
	forEachRelease(t, func(t *testing.T, r release) {
		data, err := os.ReadFile(filepath.Join(*upgradedDir, path.Base(t.Name())+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		next, err := decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if len(all[*apps.Deployment](r)) > 0 { // of which only the selector cannot be changed
			if before, after := server(t, r).Selector, server(t, next).Selector; !reflect.DeepEqual(before, after) {
				t.Errorf("before: %+v\nafter: %+v", before, after)
			}
			return
		}
		before, after := only[*apps.StatefulSet](t, r).Spec, only[*apps.StatefulSet](t, next).Spec
		for _, s := range []*apps.StatefulSetSpec{&before, &after} { // what may change
			s.Replicas, s.Template, s.UpdateStrategy, s.RevisionHistoryLimit = nil, core.PodTemplateSpec{}, apps.StatefulSetUpdateStrategy{}, nil
			s.PersistentVolumeClaimRetentionPolicy = nil
		}
		if !reflect.DeepEqual(before, after) {
			t.Errorf("before: %+v\nafter: %+v", before, after)
		}
	})
}
