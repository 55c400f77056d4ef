package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// A disturbance is something that happens to a container for a while.
type disturbance struct {
	name        string
	begin, end  func(*fleet, string) error
	least, most int // seconds
}

var replicaDisturbances = []disturbance{
	{"killed", kill, start, 1, 6},
	{"killed", kill, start, 1, 6},
	{"stopped with SIGSTOP", pause, unpause, 3, 15},
	{"cut off from clients", cut("front"), join("front"), 3, 15},
	{"cut off from the object store", cut("objects"), join("objects"), 3, 20},
	{"cut off from upstreams", cut("upstream"), join("upstream"), 3, 15},
	{"without packets from and to the object store", lose, find, 3, 20},
}

var nodeDisturbances = []disturbance{
	{"killed", kill, start, 1, 6},
	{"killed", kill, start, 1, 6},
	{"stopped with SIGSTOP", pause, unpause, 3, 15},
	{"cut off", cut("objects"), join("objects"), 3, 15},
}

// severalNodes are disturbances where there is more than one node.
var severalNodes = []disturbance{
	{"without packets from and to one other node", loseOne, findOne, 3, 20},
	{"killed, and another one, too", killTwo, startTwo, 1, 8},
}

// fleet is the containers that are disturbed.
type fleet struct {
	replicas, nodes []string
	addresses       map[string]map[string]string // by container and network
}

// disturb disturbs one replica and one node at a time, until it is interrupted; then all is well. It deals the
// disturbances like cards, none again before all others, and leaves a file when all were dealt once.
func disturb(ctx context.Context, replicas, nodes string) error {
	f := &fleet{replicas: strings.Split(replicas, ","), nodes: strings.Split(nodes, ","), addresses: map[string]map[string]string{}}
	for _, container := range append(f.replicas, f.nodes...) {
		f.addresses[container] = map[string]string{}
		out, err := docker("inspect", "-f", "{{range $name, $n := .NetworkSettings.Networks}}{{$name}} {{$n.IPAddress}}\n{{end}}", container)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if network, address, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
				f.addresses[container][network] = address
			}
		}
	}
	onNodes := nodeDisturbances
	if len(f.nodes) > 1 {
		onNodes = append(onNodes, severalNodes...)
	}
	counted := map[string]int{}
	decks := 2        // that are not dealt once
	var mu sync.Mutex // guards counted and decks
	var group sync.WaitGroup
	var failed [2]error
	for i, deck := range [][]disturbance{replicaDisturbances, onNodes} {
		what, containers := "replica", f.replicas
		if i == 1 {
			what, containers = "node", f.nodes
		}
		random := rand.New(rand.NewPCG(uint64(number("SEED")), uint64(10+i)))
		group.Go(func() {
			for round := 0; ; round++ {
				for _, at := range random.Perm(len(deck)) {
					d, container := deck[at], containers[random.IntN(len(containers))]
					rest := time.Duration(2000+random.IntN(6000)) * time.Millisecond
					long := time.Duration(d.least*1000+random.IntN((d.most-d.least)*1000)) * time.Millisecond
					if wait(ctx, rest); ctx.Err() != nil {
						return
					}
					log.Printf("%s %s for %v", container, d.name, long)
					if failed[i] = f.during(ctx, d, container, long); failed[i] != nil {
						return
					}
					log.Printf("%s is back", container)
					mu.Lock()
					counted[what+" "+d.name]++
					mu.Unlock()
				}
				mu.Lock()
				if round == 0 {
					decks--
				}
				if round == 0 && decks == 0 {
					failed[i] = writeJSON("dealt", true)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if err := errors.Join(failed[:]...); err != nil {
		return err
	}
	if decks > 0 {
		return errors.New("the go commands have ended before all that can happen has happened")
	}
	return writeJSON("disturbed", counted)
}

// during begins a disturbance, waits, and ends it. A server that found no object store at its start is restarted again and
// again by the engine; meanwhile some things cannot be done to it, and are tried again.
func (f *fleet) during(ctx context.Context, d disturbance, container string, long time.Duration) error {
	for end := time.Now().Add(3 * time.Minute); ; {
		err := d.begin(f, container)
		if err == nil {
			break
		}
		_ = d.end(f, container) // half of it may have begun
		if wait(ctx, time.Second); ctx.Err() != nil {
			return nil
		}
		if time.Now().After(end) {
			return err
		}
	}
	wait(ctx, long)
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		if err := d.end(f, container); err == nil || time.Now().After(end) {
			return err
		}
	}
}

func wait(ctx context.Context, long time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(long):
	}
}

func docker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func kill(_ *fleet, container string) error {
	_, err := docker("kill", container)
	return err
}

func start(_ *fleet, container string) error {
	_, err := docker("start", container)
	return err
}

func pause(_ *fleet, container string) error {
	_, err := docker("pause", container)
	return err
}

func unpause(_ *fleet, container string) error {
	_, err := docker("unpause", container)
	return err
}

// network is the full name of one of the networks.
func network(name string) string { return os.Getenv("NAME") + "-" + name }

// alias is the name of a container in its networks, and that of all nodes.
func (f *fleet) aliases(container string) []string {
	aliases := []string{"--alias", strings.TrimPrefix(container, os.Getenv("NAME")+"-")}
	for _, node := range f.nodes {
		if node == container {
			aliases = append(aliases, "--alias", "objects")
		}
	}
	return aliases
}

func cut(from string) func(*fleet, string) error {
	return func(_ *fleet, container string) error {
		_, err := docker("network", "disconnect", network(from), container)
		return err
	}
}

func join(to string) func(*fleet, string) error {
	return func(f *fleet, container string) error {
		args := append([]string{"network", "connect", "--ip", f.addresses[container][network(to)]}, f.aliases(container)...)
		_, err := docker(append(args, network(to), container)...)
		return err
	}
}

// filter adds (-I) or removes (-D) rules of a container that drop all packets from and to other ones.
func (f *fleet) filter(action, container string, others ...string) error {
	pid, err := docker("inspect", "-f", "{{.State.Pid}}", container)
	if err != nil {
		return err
	}
	for _, other := range others {
		address := f.addresses[other][network("objects")]
		for _, rule := range [][]string{{"INPUT", "-s", address}, {"OUTPUT", "-d", address}} {
			iptables := func(action string) []string {
				return append([]string{"-t", strings.TrimSpace(pid), "-n", "iptables", "-w", action}, append(rule, "-j", "DROP")...)
			}
			if action == "-D" && exec.Command("nsenter", iptables("-C")...).Run() != nil {
				continue // the container was restarted since
			}
			args := iptables(action)
			if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("nsenter %s: %w: %s", strings.Join(args, " "), err, out)
			}
		}
	}
	return nil
}

func lose(f *fleet, container string) error { return f.filter("-I", container, f.nodes...) }
func find(f *fleet, container string) error { return f.filter("-D", container, f.nodes...) }

// next is another node.
func (f *fleet) next(container string) string {
	for i, node := range f.nodes {
		if node == container {
			return f.nodes[(i+1)%len(f.nodes)]
		}
	}
	return container
}

func loseOne(f *fleet, container string) error { return f.filter("-I", container, f.next(container)) }
func findOne(f *fleet, container string) error { return f.filter("-D", container, f.next(container)) }

func killTwo(f *fleet, container string) error {
	return errors.Join(kill(f, container), kill(f, f.next(container)))
}

func startTwo(f *fleet, container string) error {
	return errors.Join(start(f, container), start(f, f.next(container)))
}
