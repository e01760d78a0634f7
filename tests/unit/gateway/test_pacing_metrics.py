"""How the pacer stands, as Prometheus reads it."""

from gateway.metrics import Metrics
from router.pacing import Pacer


def test_the_pacers_share_prices_and_spend_are_shown():
    metrics, pacer = Metrics(), Pacer(max_share=0.0, max_spend_per_day=100.0)
    metrics.show(pacer)
    for _ in range(60):
        pacer.came()
        pacer.spent(0.5, 50_000.0)
    lines = metrics.render().decode().splitlines()
    assert "stillroom_teacher_share 1.0" in lines
    assert "stillroom_teacher_spend_today 30.0" in lines
    assert 'stillroom_pacing_price{ceiling="share"} 1.02' in lines
    assert any(line.startswith('stillroom_pacing_price{ceiling="spend"} ') for line in lines)
