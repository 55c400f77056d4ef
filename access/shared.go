package access

import (
	"fmt"
	"strings"
)

// ownerClaim is a claim that names the owner of a token of a shared issuer.
type ownerClaim struct {
	name string
	// path means that the owner is the first element of a path after prefix. Otherwise the owner is
	// the whole value.
	path   bool
	prefix string
}

// ownerClaims returns the claims that name the owner of a token, for issuers at which strangers
// have accounts. nil means that the issuer is not known to be shared, for example a company's own
// one.
//
// GitHub's job_workflow_ref is not among them: it names the owner of a reusable workflow, and
// strangers can use public ones.
func ownerClaims(url string) []ownerClaim {
	switch strings.TrimSuffix(url, "/") {
	case "https://token.actions.githubusercontent.com":
		return []ownerClaim{
			{name: "repository", path: true}, {name: "repository_id"}, {name: "repository_owner"}, {name: "repository_owner_id"},
			{name: "enterprise"}, {name: "enterprise_id"}, {name: "sub", path: true, prefix: "repo:"},
		}
	case "https://gitlab.com":
		return []ownerClaim{
			{name: "project_path", path: true}, {name: "project_id"}, {name: "namespace_path", path: true}, {name: "namespace_id"},
			{name: "sub", path: true, prefix: "project_path:"},
		}
	case "https://agent.buildkite.com":
		return []ownerClaim{{name: "organization_slug"}, {name: "organization_id"}}
	}
	return nil
}

// checkOwner refuses claims of a rule for a shared issuer that match tokens of strangers: on
// GitHub, { ref = "refs/heads/main" } is the main branch of every user.
func checkOwner(url string, claims map[string]string) error {
	owners := ownerClaims(url)
	if owners == nil {
		return nil
	}
	var names []string
	for _, c := range owners {
		if pattern, ok := claims[c.name]; ok && c.fixed(pattern) {
			return nil
		}
		names = append(names, c.name)
	}
	return fmt.Errorf("every user of the internet can get tokens from this issuer, and no claim names an owner; "+
		"give one of %s with a value in which * and ? come after the owner's name", strings.Join(names, ", "))
}

// fixed reports whether all values that match the pattern have the same owner.
func (c ownerClaim) fixed(pattern string) bool {
	i := strings.IndexAny(pattern, `*?[\`)
	if !c.path {
		return i < 0
	}
	rest, ok := strings.CutPrefix(pattern, c.prefix)
	if !ok {
		return false
	}
	if i < 0 {
		return true
	}
	return strings.Index(rest, "/") > 0 && strings.Index(pattern, "/") < i
}
