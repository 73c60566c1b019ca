// Package staticpod holds packaging/static-pod.yaml against Kubernetes' own types.
package staticpod

import (
	"bytes"
	"os"
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const manifest = "../../../../../packaging/static-pod.yaml"

func decode(t *testing.T, text []byte) corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	// An unknown or repeated key is an error.
	if err := yaml.UnmarshalStrict(text, &pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

func read(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestManifestIsATightPod(t *testing.T) {
	pod := decode(t, read(t))
	if pod.Kind != "Pod" || pod.APIVersion != "v1" || len(pod.Spec.Containers) != 1 {
		t.Fatalf("not a Pod with one container: %s %s", pod.APIVersion, pod.Kind)
	}
	spec, container := pod.Spec, pod.Spec.Containers[0]
	rules := map[string]bool{
		"no CNI plugin is waited for":    spec.HostNetwork,
		"system-node-critical":           spec.PriorityClassName == "system-node-critical",
		"no token of a service account":  !*spec.AutomountServiceAccountToken,
		"not root":                       *spec.SecurityContext.RunAsNonRoot && *spec.SecurityContext.RunAsUser != 0,
		"seccomp":                        spec.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
		"no escalation":                  !*container.SecurityContext.AllowPrivilegeEscalation,
		"read-only root":                 *container.SecurityContext.ReadOnlyRootFilesystem,
		"no capability":                  container.SecurityContext.Capabilities.Drop[0] == "ALL" && len(container.SecurityContext.Capabilities.Add) == 0,
		"the image is named by a digest": regexp.MustCompile(`@sha256:[0-9a-f]{64}$`).MatchString(container.Image),
	}
	for rule, holds := range rules {
		if !holds {
			t.Error(rule)
		}
	}
}

func TestEveryMountHasItsVolume(t *testing.T) {
	pod := decode(t, read(t))
	volumes := map[string]string{}
	for _, volume := range pod.Spec.Volumes {
		if volume.HostPath == nil || *volume.HostPath.Type != corev1.HostPathDirectory {
			t.Errorf("%s: not a directory of the host", volume.Name)
			continue
		}
		volumes[volume.Name] = volume.HostPath.Path
	}
	writable := map[string]bool{"/run/p11-kms": true, "/var/lib/p11-kms": true}
	for _, mount := range pod.Spec.Containers[0].VolumeMounts {
		if volumes[mount.Name] != mount.MountPath {
			t.Errorf("%s: %q is mounted at %q", mount.Name, volumes[mount.Name], mount.MountPath)
		}
		if mount.ReadOnly == writable[mount.MountPath] {
			t.Errorf("%s: read-only is %v", mount.MountPath, mount.ReadOnly)
		}
		delete(volumes, mount.Name)
	}
	if len(volumes) > 0 {
		t.Errorf("not mounted: %v", volumes)
	}
}

func TestProbesAreValidOnceTheyAreWanted(t *testing.T) {
	text := read(t)
	// The comment lines of the two probes alone are indented and begin a key.
	commented := regexp.MustCompile(`(?m)^      # (livenessProbe:|readinessProbe:|  [a-zA-Z]+: )`)
	wanted := commented.ReplaceAll(text, []byte("      $1"))
	if bytes.Equal(wanted, text) {
		t.Fatal("no probe is found")
	}
	container := decode(t, wanted).Spec.Containers[0]
	if container.LivenessProbe.HTTPGet.Path != "/livez" || container.ReadinessProbe.HTTPGet.Path != "/readyz" {
		t.Error("/livez tells whether it lives, /readyz whether it is ready")
	}
	for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe} {
		if probe.HTTPGet.Host != "127.0.0.1" || probe.HTTPGet.Port.IntValue() != 9807 {
			t.Errorf("metrics are on 127.0.0.1:9807, not on %s:%s", probe.HTTPGet.Host, probe.HTTPGet.Port.String())
		}
	}
}
