# A program as people write them with redis-rb. Usage: redis_rb.rb PORT PROTOCOL smoke|cluster
# `cluster` is a client of clusters. The library of this version speaks RESP2 alone.
require 'redis'

def same(wanted, got)
  raise "#{wanted.inspect} was wanted, and not #{got.inspect}" unless wanted == got
end

port, _, what = ARGV
url = "redis://127.0.0.1:#{port}"
r = what == 'cluster' ? Redis.new(cluster: [url]) : Redis.new(url: url)
200.times { |n| same('OK', r.set("key:#{n}", n)) }
200.times { |n| same(n.to_s, r.get("key:#{n}")) }
same('OK', r.mset('{t}a', 1, '{t}b', 2))
same(['1', '2', nil], r.mget('{t}a', '{t}b', '{t}none'))
same([2, '2'], r.multi { |m| m.incr('{t}a'); m.get('{t}b') })
same((1..50).to_a, r.pipelined { |p| 50.times { |n| p.incr('{t}n') } })
same(1, r.eval("return redis.call('incr', KEYS[1])", keys: ['by:script']))
same(1, r.rpush('l', 'x'))
same(%w[l x], r.blpop('l', timeout: 1))
r.hset('h', 'f', '1')
same({ 'f' => '1' }, r.hgetall('h'))
same(3, r.del('{t}a', '{t}b', '{t}n'))
begin
  r.lpush('key:1', 1)
  raise 'no WRONGTYPE'
rescue Redis::CommandError => e
  raise unless e.message.include?('WRONGTYPE')
end
puts 'ok'
