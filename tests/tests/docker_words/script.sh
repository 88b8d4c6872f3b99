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

# And all goes again.
docker rm -f web db late
docker network prune --force --filter label=env
docker network rm alpha nowhere gamma
docker network rm bridge
docker network ls --filter type=custom --format '{{.Name}}'
