"""The machine room of `pasys up`: embedded servers, the programs around them, and the supervisor that keeps all alive.

client.py       what the faces call: up, run_foreground, down, status, start, stop, restart
logs.py         one stream out of many log files          doctor.py      what is wrong here, and what cures it
supervisor.py   the process that owns a running home      service.py     the life of one service
plan.py         which programs there are, as data         runner.py      the four ways to run one
nursery.py      the parent of all programs (nurse.py: the supervisor's end; program.py: a child's life)
postgres.py  nats.py  valkey.py                           the servers (server.py: what a server is)
servers.py      the servers alone, for tests
home.py  disk.py  ports.py  locate.py  identity.py  process.py  state.py  control.py  pgwire.py  external.py
"""
