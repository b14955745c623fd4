#!/bin/bash
# Builds a kind node image without a container registry: Kubernetes, etcd and CoreDNS from Go modules, the rest from
# Debian packages, laid out as kind's own images/base and `kind build node-image` lay it out.
# About 10 minutes on 2 cores with an empty Go build cache, 1 minute with a full one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kubernetes=1.34.3
kind=v0.30.0
image=$1

if docker image inspect "$image" >/dev/null 2>&1; then exit 0; fi
if [ "$(uname -m)" != x86_64 ]; then
  echo "the node image is laid out for x86_64 only: on $(uname -m) use a registry's, with stock kind" >&2
  exit 1
fi
work=$(mktemp -d)
docker rm -f kind-node-build >/dev/null 2>&1 || true # what an interrupted build left
trap 'docker rm -f kind-node-build >/dev/null 2>&1; rm -rf "$work"' EXIT
say() { echo "kind node image: $*" >&2; }

go_binary() { # folder, binary, linker flags
  say "compiling $2"
  (cd "$here/$1" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $3" -o "$work/$2" .)
}
version=k8s.io/component-base/version
go_binary kubernetes kubernetes "-X $version.gitVersion=v$kubernetes -X $version.gitMajor=1
  -X $version.gitMinor=$(cut -d. -f2 <<<$kubernetes) -X $version.gitTreeState=clean"
go_binary etcd etcd ""
go_binary coredns coredns ""
module_folder() { (cd "$here/kubernetes" && go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'); }
kind_base=$(module_folder sigs.k8s.io/kind@$kind)/images/base/files
pause_source=$(module_folder k8s.io/kubernetes@v$kubernetes)/build/pause/linux/pause.c
gcc -Os -static -DVERSION=3.10 -o "$work/pause" "$pause_source"

say "installing Debian packages"
root=$work/root
packages=systemd,systemd-sysv,conntrack,iptables,nftables,iproute2,ethtool,kmod,libseccomp2,pigz,ca-certificates
packages+=,curl,jq,procps,containerd,runc,containernetworking-plugins
debootstrap --variant=minbase --include=$packages bookworm "$root" >/dev/null
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/usr/share/{doc,man,locale}/*

say "laying out the node"
cp -r --no-preserve=mode "$kind_base/etc/." "$root/etc/"
mkdir -p "$root/kind" && cp -r --no-preserve=mode "$kind_base/kind/." "$root/kind/"
cp --no-preserve=mode "$kind_base/usr/local/bin/entrypoint" "$root/usr/local/bin/"
chmod 755 "$root/usr/local/bin/entrypoint" "$root/kind/bin" "$root"/kind/bin/*
units=$root/lib/systemd/system
rm -f "$units"/sysinit.target.wants/systemd-tmpfiles-setup.service "$units"/multi-user.target.wants/* \
  "$root"/etc/systemd/system/*.wants/* "$units"/local-fs.target.wants/* "$units"/basic.target.wants/* \
  "$units"/sockets.target.wants/*{udev,initctl}*
echo "ReadKMsg=no" >> "$root/etc/systemd/journald.conf"
chroot "$root" systemctl --quiet enable kubelet containerd undo-mount-hacks
chroot "$root" systemctl --quiet mask systemd-binfmt
mkdir -p "$root/etc/kubernetes/manifests" "$root/opt/cni/bin" "$root/etc/cni/net.d" "$root/kind/manifests"
cp "$root"/usr/lib/cni/{host-local,loopback,ptp,portmap} "$root/opt/cni/bin/"
ln -s /usr/bin/{containerd,ctr,containerd-shim-runc-v2} "$root/usr/local/bin/"
install -m 755 "$here/runc-without-sys-resource" "$root/usr/local/sbin/runc"
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$root/etc/containerd/config.toml"
chroot "$root" ctr oci spec | jq 'del(.process.rlimits)
  | .hooks.createContainer += [{path: "/kind/bin/mount-product-files.sh"}]' > "$root/etc/containerd/cri-base.json"
cp "$here/cni.conflist" "$root/etc/cni/net.d/10-ptp.conflist"
cp "$here/storage.yaml" "$root/kind/manifests/default-storage.yaml"
cp "$here/cni-note.yaml" "$root/kind/manifests/default-cni.yaml"
echo "v$kubernetes" > "$root/kind/version"
cp "$work/kubernetes" "$root/usr/bin/kubernetes"
for program in kubelet kubeadm kubectl; do ln -s kubernetes "$root/usr/bin/$program"; done

say "packing the control plane's images"
with_libraries() { # copies a program and the libraries it loads into $work/kube
  for file in "$1" $(chroot "$root" ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
    mkdir -p "$work/kube$(dirname "$file")" && cp -nL "$root$file" "$work/kube$file"
  done
}
for program in /usr/sbin/xtables-nft-multi /usr/sbin/conntrack /usr/bin/kmod /usr/bin/dash \
  $(cd "$root" && ls usr/lib/x86_64-linux-gnu/xtables/*.so | sed 's#^#/#'); do with_libraries "$program"; done
mkdir -p "$work"/kube/{bin,sbin,tmp,etc,run,usr/local/bin} && chmod 1777 "$work/kube/tmp"
for name in iptables ip6tables; do
  for verb in "" -save -restore; do ln -s xtables-nft-multi "$work/kube/usr/sbin/$name$verb"; done
done
ln -s /usr/bin/kmod "$work/kube/sbin/modprobe" && ln -s /usr/bin/dash "$work/kube/bin/sh"
cp "$work/kubernetes" "$work/kube/usr/local/bin/kubernetes"
images=()
pack() { # folder, image names...
  local folder=$1; shift
  local id; id=$(tar -C "$folder" -c . | docker import --change 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change "${entrypoint:-CMD []}" -)
  for name in "$@"; do docker tag "$id" "registry.k8s.io/$name"; images+=("registry.k8s.io/$name"); done
}
programs=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
for program in "${programs[@]}"; do ln -s kubernetes "$work/kube/usr/local/bin/$program"; done
pack "$work/kube" "${programs[@]/%/:v$kubernetes}"
single() { # program, image names...
  local program=$1; shift
  mkdir -p "$work/$program.root/usr/local/bin" "$work/$program.root/tmp"
  cp "$work/$program" "$work/$program.root/usr/local/bin/"
  entrypoint="ENTRYPOINT [\"/usr/local/bin/$program\"]" pack "$work/$program.root" "$@"
}
wanted() { # the exact tags this kubeadm asks for
  chroot "$root" kubeadm config images list --kubernetes-version "v$kubernetes" 2>/dev/null | sed -n "s#^registry.k8s.io/\(.*$1:.*\)#\1#p"
}
single etcd "$(wanted etcd)"
single coredns "$(wanted coredns)"
single pause "$(wanted pause)" pause:3.10

say "loading them into the node"
tar -C "$root" -c . | docker import --change 'ENV container=docker' - kind-node-build >/dev/null
docker run -d --name kind-node-build --entrypoint sleep --security-opt seccomp=unconfined kind-node-build infinity >/dev/null
docker exec -d kind-node-build containerd
for _ in $(seq 60); do docker exec kind-node-build ctr version >/dev/null 2>&1 && break; sleep 0.5; done
docker save "${images[@]}" | docker exec -i kind-node-build ctr -n k8s.io images import --no-unpack --all-platforms - >/dev/null
docker exec kind-node-build sh -c 'kill $(pidof containerd); sleep 2; rm -rf /run/containerd'
docker commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' kind-node-build "$image" >/dev/null
docker rm -f kind-node-build >/dev/null
docker rmi kind-node-build "${images[@]}" >/dev/null
say "made $image"
