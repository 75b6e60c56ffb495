# Sidekiq in an outage: a worker, and a program that gives it jobs. Usage: sidekiq_app.rb PORT
require 'io/wait'
require 'json'
require 'redis'
require 'sidekiq'

ENV['OUTAGE_PORT'] = ARGV[0] if ARGV[0]&.match?(/\A\d+\z/)
PORT = ENV.fetch('OUTAGE_PORT').to_i
Sidekiq.configure_server { |config| config.redis = { url: "redis://127.0.0.1:#{PORT}/4" } }
Sidekiq.configure_client { |config| config.redis = { url: "redis://127.0.0.1:#{PORT}/4" } }

class Double
  include Sidekiq::Worker

  def perform(n)
    Sidekiq.redis { |r| r.set("double:#{n}", n * 2) }
  end
end

def result(n, patience)
  (patience * 20).times do
    value = Sidekiq.redis { |r| r.get("double:#{n}") }
    return value.to_i if value
    sleep 0.05
  end
  raise 'the job is not done'
end

# Whether the worker does what it is asked for now.
def lives?(worker)
  4.times do |try|
    return false if Process.waitpid(worker, Process::WNOHANG)

    n = 1_000_000 + try
    Double.perform_async(n)
    return result(n, 15) == n * 2
  rescue StandardError => e
    warn e.inspect
  end
  false
end

if $PROGRAM_NAME == __FILE__
  worker = spawn({ 'OUTAGE_PORT' => PORT.to_s }, 'sidekiq', '-r', File.expand_path(__FILE__), '-c', '1', in: File::NULL, out: $stderr)
  begin
    done = failed = 0
    errors = Hash.new(0)
    Double.perform_async(1)
    result(1, 60)
    puts 'ready'
    $stdout.flush
    n = 1
    until $stdin.wait_readable(0)
      n += 1
      begin
        Double.perform_async(n)
        done += 1
      rescue StandardError => e
        failed += 1
        errors["#{e.class}: #{e.message}"[0, 90]] += 1
      end
      sleep 0.05
    end
    puts JSON.generate(done: done, failed: failed, wrong: 0, alive: lives?(worker), errors: errors)
  ensure
    begin
      Process.kill('KILL', worker)
    rescue Errno::ESRCH
      nil
    end
  end
end
