#!/bin/sh
# What a node's image needs besides packages: nothing starts by itself that a scenario has not asked for.
set -eu
systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer
systemctl disable --quiet bird.service firewalld.service keepalived.service nftables.service ufw.service
rm -rf /var/lib/apt/lists/*
