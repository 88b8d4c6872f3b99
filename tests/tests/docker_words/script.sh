# Lines as people write them for Docker. The test runs each as it is, and with the program's name
# replaced.

# Networks are made, with whatever Docker has for them.
docker network create alpha
docker network create --driver bridge --subnet 10.101.0.0/24 --gateway 10.101.0.254 --label tier=web --label env beta
docker network create --subnet 10.102.0.0/24 --ip-range 10.102.0.128/25 --gateway 10.102.0.1 --aux-address printer=10.102.0.128 gamma
docker network create --internal --subnet=10.103.0.0/24 -o com.docker.network.driver.mtu=1400 delta
docker network create --ipv6 --subnet 10.104.0.0/24 --subnet fd00:104::/64 --opt com.docker.network.bridge.enable_icc=false epsilon

# What makes no sense is refused.
docker network create beta
docker network create --subnet 10.101.0.0/25 overlapping
docker network create --subnet 10.105.0.0/24 --gateway 10.106.0.1 wrong-gateway
docker network create --subnet 10.105.0.0/24 --ip-range 10.106.0.0/24 wrong-range
docker network create host
docker network create ''

# They are listed and shown.
docker network ls --filter type=custom --format '{{.Name}} {{.Driver}} {{.Scope}}'
docker network ls --filter label=tier=web --format 'table {{.Name}}\t{{.Driver}}\t{{.Label "tier"}}'
docker network ls --quiet --filter name=^beta$ --no-trunc
docker network ls --filter name=^host$
docker network inspect --format '{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}} {{.IPRange}}{{end}}' beta gamma
docker network inspect --format '{{json .Labels}}' beta
docker network inspect -f '{{index .Options "com.docker.network.driver.mtu"}} {{.Internal}} {{.Driver}} {{.Scope}}' delta
docker network inspect -f '{{.Name}} {{.EnableIPv6}} {{len .IPAM.Config}} {{range .IPAM.Config}}{{println .Subnet}}{{end}}' epsilon
docker network inspect -f '{{.Name}}' beta nowhere gamma

# Containers are put into them.
docker run -d --name web --network beta box sleep 600
docker run -d --name db --network beta --ip 10.101.0.50 box sleep 600
docker run -d --name late --network gamma box sleep 600
docker run --rm --network beta --ip 10.101.0.50 box true
docker run --rm --network nowhere box true
docker network inspect -f '{{range .Containers}}{{println .Name .IPv4Address}}{{end}}' beta gamma
docker network inspect -f '{{len .Containers}} {{range $id, $c := .Containers}}{{if eq $c.Name "db"}}{{$c.MacAddress}}{{end}}{{end}}' beta
docker exec web ping -c 1 -W 2 10.101.0.50
docker exec web ping -c 1 -W 1 10.102.0.129
docker network rm beta

# Running containers are connected to more networks, and disconnected.
docker network connect --ip 10.102.0.200 --alias store --alias shop gamma web
docker network connect gamma web
docker network connect --ip 10.109.0.9 gamma db
docker network connect --ip 10.102.0.200 gamma db
docker network connect nowhere db
docker network connect gamma nobody
docker network connect gamma db
docker inspect -f '{{range $n, $c := .NetworkSettings.Networks}}{{println $n $c.IPPrefixLen $c.Gateway}}{{end}}' web db
docker inspect -f '{{(index .NetworkSettings.Networks "gamma").IPAddress}} {{(index .NetworkSettings.Networks "beta").IPAddress}}' web
docker inspect -f '{{index .NetworkSettings.Networks.gamma.Aliases 0}} {{index .NetworkSettings.Networks.gamma.Aliases 1}}' web
docker inspect -f '{{.NetworkSettings.Networks.gamma.MacAddress}} {{.NetworkSettings.Networks.gamma.NetworkID}} {{.NetworkSettings.Networks.gamma.EndpointID}}' web
docker inspect -f '{{.Id}} {{.Name}} {{.State.Running}} {{.HostConfig.NetworkMode}}' web late
docker exec late ping -c 1 -W 2 store
docker exec late ping -c 1 -W 2 shop
docker exec late ping -c 1 -W 2 web.gamma
docker exec late ping -c 1 -W 2 db
docker exec web ip addr show eth1
docker network disconnect gamma web
docker network disconnect gamma web
docker exec web ip addr show eth1
docker exec late ping -c 1 -W 2 10.102.0.200
docker exec db ip route get 10.102.0.1
docker network inspect -f '{{range .Containers}}{{println .Name .IPv4Address}}{{end}}' gamma
docker network disconnect --force gamma db

# Nobody leaves an internal network.
docker run -d --name inner --network delta box sleep 600
docker inspect -f '{{.NetworkSettings.Networks.delta.IPPrefixLen}}' inner
docker exec inner ping -c 1 -W 1 10.101.0.50

# Other places for a container.
docker run -d --name hosts --network host box sleep 600
docker run -d --name lonely --network none box sleep 600
docker run -d --name side --network container:web box sleep 600
docker run -d --name beside --network container:side box sleep 600
docker inspect -f '{{.HostConfig.NetworkMode}} {{range $n, $c := .NetworkSettings.Networks}}{{$n}} {{$c.IPAddress}}{{end}}' hosts lonely
docker inspect -f '{{len .NetworkSettings.Networks}}' side beside
docker exec side ping -c 1 -W 2 10.101.0.50
docker exec beside ping -c 1 -W 2 db
docker exec lonely ip addr show eth0
docker exec lonely ping -c 1 -W 2 127.0.0.1
docker network connect gamma hosts
docker network connect gamma lonely
docker network connect gamma side
docker network connect host web
docker network connect none web
docker run --rm --network container:nowhere box true
docker run --rm --network container:web -p 80:80 box true
docker run --rm --network container:web --hostname other box true
docker run --rm --network host --network beta box true
docker run --rm --network bridge --network-alias alias box true
docker run --rm --network beta --network beta box true
docker run --rm --network beta --ip 10.101.0.254 box true
docker run --rm --network beta --mac-address tomato box true

# What has ended is in no network any more.
docker stop -t 1 db
docker inspect -f '{{.State.Running}} {{.State.Status}}' db
docker network inspect -f '{{range .Containers}}{{println .Name}}{{end}}' beta
docker run --rm --network container:db box true
docker network rm gamma

# And all goes again.
docker rm -f web db late inner hosts lonely side beside
docker network prune --force --filter label=env
docker network rm alpha nowhere gamma
docker network rm bridge
docker network ls --filter type=custom --format '{{.Name}}'
